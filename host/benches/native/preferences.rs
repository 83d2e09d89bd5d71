//! `per_user_preferences`, with `default_preferences` as in `configs/config.yml`.

use indexmap::IndexMap;

pub(crate) struct PreferenceInput {
    pub(crate) action: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

pub(crate) struct PreferenceOutput {
    pub(crate) success: bool,
    pub(crate) message: String,
    pub(crate) value: String,
    pub(crate) preferences: IndexMap<String, String>,
}

/// One user's settings.
pub(crate) struct Preferences {
    preferences: IndexMap<String, String>,
}

impl Default for Preferences {
    fn default() -> Self {
        let preferences = [("theme", "dark"), ("language", "en"), ("notifications", "enabled")];
        Self { preferences: preferences.map(|(key, value)| (key.into(), value.into())).into() }
    }
}

impl Preferences {
    pub(crate) fn run(&mut self, input: PreferenceInput) -> PreferenceOutput {
        let action = input.action.to_lowercase();
        match action.as_str() {
            "set" => self.set(input.key, input.value),
            "get" => self.get(&input.key),
            "list" => {
                let answer = answer(true, format!("Found {} preferences", self.preferences.len()));
                PreferenceOutput { preferences: self.preferences.clone(), ..answer }
            }
            _ => answer(false, format!("Unknown action: {action}. Use 'set', 'get', or 'list'")),
        }
    }

    fn set(&mut self, key: String, value: String) -> PreferenceOutput {
        if key.is_empty() {
            return answer(false, "Key is required for 'set' action");
        }
        let message = format!("Preference '{key}' set to '{value}'");
        self.preferences.insert(key, value);
        PreferenceOutput { preferences: self.preferences.clone(), ..answer(true, message) }
    }

    fn get(&self, key: &str) -> PreferenceOutput {
        if key.is_empty() {
            return answer(false, "Key is required for 'get' action");
        }
        match self.preferences.get(key) {
            Some(value) => {
                PreferenceOutput { value: value.clone(), ..answer(true, format!("Preference '{key}' = '{value}'")) }
            }
            None => answer(false, format!("Preference '{key}' not found")),
        }
    }
}

fn answer(success: bool, message: impl Into<String>) -> PreferenceOutput {
    PreferenceOutput { success, message: message.into(), value: String::new(), preferences: IndexMap::new() }
}
