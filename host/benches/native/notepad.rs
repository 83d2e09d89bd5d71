//! `per_user_notepad`, with `max_notes` as in `configs/config.yml`.

const MAX_NOTES: usize = 50;

pub(crate) struct NoteInput {
    pub(crate) action: String,
    pub(crate) content: String,
}

pub(crate) struct NoteOutput {
    pub(crate) success: bool,
    pub(crate) message: String,
    pub(crate) notes: Vec<String>,
    pub(crate) count: usize,
}

/// One user's notes.
#[derive(Default)]
pub(crate) struct Notepad {
    notes: Vec<String>,
}

impl Notepad {
    pub(crate) fn run(&mut self, input: NoteInput) -> NoteOutput {
        let action = input.action.to_lowercase();
        match action.as_str() {
            "add" => self.add(input.content),
            "list" => {
                let answer = self.answer(true, format!("Found {} notes", self.notes.len()));
                NoteOutput { notes: self.notes.clone(), ..answer }
            }
            "clear" => {
                let cleared = self.notes.len();
                self.notes.clear();
                self.answer(true, format!("Cleared {cleared} notes"))
            }
            "count" => self.answer(true, format!("You have {} notes", self.notes.len())),
            _ => self.answer(false, format!("Unknown action: {action}. Use 'add', 'list', 'clear', or 'count'")),
        }
    }

    fn add(&mut self, content: String) -> NoteOutput {
        if content.is_empty() {
            return self.answer(false, "Content is required for 'add' action");
        }
        if self.notes.len() >= MAX_NOTES {
            return self.answer(false, format!("Maximum notes ({MAX_NOTES}) reached"));
        }
        self.notes.push(content);
        self.answer(true, "Note added successfully")
    }

    fn answer(&self, success: bool, message: impl Into<String>) -> NoteOutput {
        NoteOutput { success, message: message.into(), notes: Vec::new(), count: self.notes.len() }
    }
}
