//! Finds out from a guest's code where the guest keeps its state.
//!
//! An instance can be made again from a copy of its linear memories if nothing else of it changes between two calls. A
//! guest's modules are examined for what does: globals, tables, dropped segments, resources.
//!
//! * A global that is not set after the start, or that each function leaves as it found it, as compilers' stack
//!   pointers are (`balance` proves it, with what `lifts` says of who calls what), is no state.
//! * Any other global of a module, and one that is set at the start, is moved to a linear memory that is added for it
//!   (`globals`), and is then kept with the rest.
//! * The effects of instantiation on memories, by start code and data, are part of the memories' bytes. An instance
//!   is made again from these bytes and the guest's shell (`shell`), which does nothing of that.
//! * Texts that its components pass to each other are priced (`texts`), and instructions that may take long are
//!   divided (`bulk`).
//! * If a guest's state cannot be kept that way there is a reason, which `carrel info` shows. Such a guest works, but
//!   its instances cannot be parked, and a call that fails drops their state.

mod balance;
mod bulk;
mod globals;
mod lifts;
mod module;
mod rewrite;
mod shell;
mod texts;

use lifts::Lifts;
use module::Module;
use rewrite::replace;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, ops::Range};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// A name for the code of this crate: with other code, what is found out about a guest may be something else.
pub const CODE: &str = env!("CARREL_EXAMINE_CODE");

/// A guest whose state is all in its linear memories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The hash of the component as it was given.
    pub hash: [u8; 32],
    /// Bytes at the start of the only memory that hold nothing between calls: the stack, which compilers put first.
    pub dead: usize,
    /// Units of fuel that the engine takes to write the guest's data, which it does not do for a shell.
    pub data: u64,
}

/// The most reasons shown at once.
const TOLD: usize = 8;

/// A component, ready to be compiled, and its state's place, or the reasons why the state cannot be kept.
#[derive(Debug)]
pub struct Examined<'a> {
    /// The component to be compiled: as it was given, or with prices added and instructions divided.
    pub wasm: Cow<'a, [u8]>,
    /// The shell, for instances whose memories' bytes are known; `None` if the component itself serves.
    pub shell: Option<Vec<u8>>,
    /// The state that can be kept, or the reasons why it cannot.
    pub state: Result<State, Vec<String>>,
}

/// Examines a component. An invalid one is given back as it is, for wasmtime to say what is wrong.
pub fn examine(wasm: &[u8]) -> Examined<'_> {
    let hash = *blake3::hash(wasm).as_bytes();
    let valid = Validator::new_with_features(WasmFeatures::all()).validate_all(wasm).map(drop);
    let examined = valid.and_then(|()| texts::priced(wasm)).and_then(|priced| {
        let Examined { wasm, shell, state } = match priced {
            Cow::Borrowed(wasm) => examine_priced(wasm, hash),
            Cow::Owned(priced) => examine_priced(&priced, hash).into_owned(),
        };
        // Last of all: what the start code does to tables is read off its instructions.
        let shell = shell.map(|shell| divided(shell.into()).map(Cow::into_owned)).transpose()?;
        Ok(Examined { wasm: divided(wasm)?, shell, state })
    });
    examined.unwrap_or_else(|error| Examined {
        wasm: Cow::Borrowed(wasm),
        shell: None,
        state: Err(vec![format!("it cannot be read: {error}")]),
    })
}

/// The component with instructions divided that may take long.
fn divided(wasm: Cow<'_, [u8]>) -> wasmparser::Result<Cow<'_, [u8]>> {
    match rewrite::modules(&wasm, bulk::divided)? {
        Cow::Owned(divided) => Ok(Cow::Owned(divided)),
        Cow::Borrowed(_) => Ok(wasm),
    }
}

impl Examined<'_> {
    fn into_owned(self) -> Examined<'static> {
        Examined { wasm: Cow::Owned(self.wasm.into_owned()), shell: self.shell, state: self.state }
    }
}

/// Examines a component that was given with this hash. It has to be valid.
fn examine_priced(wasm: &[u8], hash: [u8; 32]) -> Examined<'_> {
    let unchanged = |state| Examined { wasm: Cow::Borrowed(wasm), shell: None, state };
    let parts = match Parts::of(wasm) {
        Ok(parts) => parts,
        Err(error) => return unchanged(Err(vec![format!("it cannot be read: {error}")])),
    };
    let mut obstacles = parts.obstacles;
    let mut moved = Vec::new();
    let mut kept = Vec::new();
    for (index, (_, module)) in parts.modules.iter().enumerate() {
        obstacles.extend(module.obstacles.iter().map(|why| format!("{why} (core module {index})")));
        let mut globals = globals::changing(module);
        for global in &globals {
            if let Err(why) = globals::can_be_moved(module, *global) {
                obstacles.push(format!("global {global} changes between calls, and {why} (core module {index})"));
            }
        }
        // Globals set at the start may differ from one instance to the next.
        let at_start = module.set_at_start().into_iter();
        let at_start = at_start.filter(|global| globals::can_be_moved(module, *global).is_ok());
        let at_start: Vec<_> = at_start.filter(|global| !globals.contains(global)).collect();
        globals.extend(at_start);
        moved.push(globals);
        match shell::Kept::of(module) {
            Ok(of_module) => kept.push(of_module),
            Err(why) => obstacles.push(format!("{why} (core module {index})")),
        }
    }
    if !obstacles.is_empty() {
        return unchanged(Err(told(obstacles)));
    }
    let modules: Vec<&Module<'_>> = parts.modules.iter().map(|(_, module)| module).collect();
    let none_moved = moved.iter().all(Vec::is_empty);
    let mut state = State { hash, dead: if none_moved { dead_stack(&modules) } else { 0 }, data: 0 };
    let mut replaced = Vec::new();
    let mut of_shell = Vec::new();
    let mut has_shell = false;
    for (((range, module), globals), kept) in parts.modules.iter().zip(&moved).zip(&kept) {
        let mut bytes = Cow::Borrowed(&wasm[range.clone()]);
        if !globals.is_empty() {
            match globals::move_to_memory(&bytes, module, globals) {
                Ok(moved) => bytes = Cow::Owned(moved),
                Err(error) => return unchanged(Err(vec![format!("its globals cannot be moved: {error}")])),
            }
        }
        match shell::of(&bytes, module, kept) {
            Ok(Some((shell, fuel))) => {
                has_shell = true;
                state.data += fuel;
                of_shell.push((range.clone(), shell));
            }
            Ok(None) if globals.is_empty() => {}
            Ok(None) => of_shell.push((range.clone(), bytes.to_vec())),
            Err(error) => return unchanged(Err(vec![format!("it has no shell: {error}")])),
        }
        if let Cow::Owned(moved) = bytes {
            replaced.push((range.clone(), moved));
        }
    }
    let shell = if has_shell { replace(wasm, &of_shell).map(Some) } else { Some(None) };
    let whole = if none_moved { Some(Cow::Borrowed(wasm)) } else { replace(wasm, &replaced).map(Cow::Owned) };
    match (whole, shell) {
        (Some(wasm), Some(shell)) => Examined { wasm, shell, state: Ok(state) },
        _ => unchanged(Err(vec!["its sections cannot be read one by one".into()])),
    }
}

/// The first of the reasons, to be shown.
fn told(mut reasons: Vec<String>) -> Vec<String> {
    let more = reasons.len().saturating_sub(TOLD);
    if more > 0 {
        reasons.truncate(TOLD);
        reasons.push(format!("and {more} more"));
    }
    reasons
}

/// The core modules of a component, at any depth, and its other state.
#[derive(Default)]
struct Parts<'a> {
    modules: Vec<(Range<usize>, Module<'a>)>,
    obstacles: Vec<String>,
}

impl<'a> Parts<'a> {
    /// Collects a component's modules. The component must be valid, which bounds every size.
    fn of(wasm: &'a [u8]) -> wasmparser::Result<Self> {
        let mut parts = Self::default();
        let mut lifts = Lifts::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            lifts.note(&payload)?;
            match payload {
                Payload::ModuleSection { unchecked_range: range, .. } => {
                    // A range that is cut short has no module: the parser reports that next.
                    if let Some(module) = wasm.get(range.clone()) {
                        parts.modules.push((range, Module::parse(module)?));
                    }
                }
                Payload::ComponentTypeSection(types) => {
                    for ty in types {
                        if let wasmparser::ComponentType::Resource { .. } = ty? {
                            parts.obstacles.push("it has resources of its own, whose handles are no memory".into());
                        }
                    }
                }
                Payload::ComponentCanonicalSection(functions) => {
                    for function in functions {
                        parts.check_builtin(function?);
                    }
                }
                _ => {}
            }
        }
        for (_, module) in &parts.modules {
            module.imports.iter().for_each(|name| lifts.imported(name));
        }
        for (_, module) in &mut parts.modules {
            module.pair(|name, after| lifts.are_a_pair(name, after));
        }
        Ok(parts)
    }

    /// Allows only functions of the first component model: others hold state in the host.
    fn check_builtin(&mut self, function: wasmparser::CanonicalFunction) {
        use wasmparser::CanonicalFunction as F;
        match function {
            F::Lift { .. } | F::Lower { .. } | F::ResourceDrop { .. } => {}
            // The component's own resources are reported where they are declared.
            F::ResourceNew { .. } | F::ResourceRep { .. } => {}
            other => {
                let name = format!("{other:?}");
                let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
                self.obstacles.push(format!("it uses the built-in {name}, which holds state outside of its memory"));
            }
        }
    }
}

/// Bytes of the stack at the start of the only memory, if the module says that they hold nothing between calls, and
/// if the stack is there: one stack pointer, below all data, as compilers lay memory out today. With a frame of
/// computed size the pointer is not known to go down: then nothing is taken for the stack.
///
/// The code alone does not tell: even if a pointer goes down and comes back, data may be kept below it at a constant
/// address.
fn dead_stack(modules: &[&Module<'_>]) -> usize {
    let with_memory: Vec<_> = modules.iter().filter(|module| module.memories > 0).collect();
    let [module] = with_memory.as_slice() else { return 0 };
    if !module.says_dead_stack {
        return 0;
    }
    let others_write = modules.iter().any(|module| module.memories == 0 && !module.data.is_empty());
    let pointers: Vec<_> = module.set_globals().into_iter().filter(|it| module.global_start(*it).is_some()).collect();
    let [pointer] = pointers.as_slice() else { return 0 };
    if module.set_at_start().contains(pointer) {
        return 0;
    }
    let Some(top) = module.global_start(*pointer) else { return 0 };
    let above = !module.data.is_empty() && module.data.iter().all(|data| data.is_some_and(|at| at >= top));
    let below = balance::goes_down(module, *pointer);
    if module.memories == 1 && !others_write && above && below { usize::try_from(top).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn state(component: &str) -> (Vec<u8>, Result<State, Vec<String>>) {
        let wasm = wat::parse_str(component).unwrap_or_else(|error| panic!("{error}:\n{component}"));
        let examined = examine(&wasm);
        Validator::new_with_features(WasmFeatures::all()).validate_all(&examined.wasm).unwrap();
        (examined.wasm.into_owned(), examined.state)
    }

    const COUNTS: &str = r#"(core module
        (global $g (mut i32) (i32.const 5))
        (func (export "f") (result i32) (global.set $g (i32.add (global.get $g) (i32.const 1))) (global.get $g)))"#;

    #[test]
    fn globals_are_moved_in_modules_wherever_they_are() {
        let outer = format!(
            r#"(component {COUNTS} (component {COUNTS} (component {COUNTS})) (core module (func)) {COUNTS}
                (component (import "x" (func)) (export "y" (func 0))))"#
        );
        let (wasm, found) = state(&outer);
        assert!(found.is_ok());
        let modules = Parts::of(&wasm).unwrap().modules;
        let memories: Vec<_> = modules.iter().map(|(_, module)| module.memories).collect();
        assert_eq!(memories, [1, 1, 1, 0, 1]);
        assert!(modules.iter().all(|(_, module)| globals::changing(module).is_empty()));
    }

    #[test]
    fn what_is_fine_as_it_is_stays_as_it_is() {
        let text =
            "(component (core module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 100)))))";
        let (wasm, found) = state(text);
        assert_eq!(wasm, wat::parse_str(text).unwrap());
        assert_eq!(found.unwrap().hash, *blake3::hash(&wasm).as_bytes());
    }

    #[test]
    fn what_holds_state_elsewhere_is_told_with_its_module() {
        let why = |content: &str| state(&format!("(component {COUNTS} {content})")).1.unwrap_err().join("; ");
        let module = |content: &str| format!("(core module (table $t 1 funcref) {content})");
        for (instruction, operands) in [
            ("table.set", "(i32.const 0) (ref.null func)"),
            ("table.grow", "(ref.null func) (i32.const 0)"),
            ("table.fill", "(i32.const 0) (ref.null func) (i32.const 0)"),
        ] {
            let more = if instruction == "table.grow" { "drop" } else { "" };
            let told = why(&module(&format!(r#"(func (export "f") {operands} {instruction} $t {more})"#)));
            assert_eq!(told, format!("its code has `{instruction}`, which changes what is no memory (core module 1)"));
        }
        assert!(why("(type (resource (rep i32)))").contains("resources of its own"));
        let exported = r#"(core module (global $g (export "g") (mut i32) (i32.const 0))
            (func (export "f") (global.set $g (i32.const 1))))"#;
        assert_eq!(why(exported), "global 0 changes between calls, and modules share it (core module 1)");
        assert!(examine(b"\0asm").state.is_err() && examine(b"").state.is_err());
    }

    #[test]
    fn nobody_can_write_a_guest_whose_examination_takes_for_ever() {
        // Each of so many globals is set by each function, whose code has to be followed for each of them, round by
        // round for its loops.
        let globals = 3000;
        let mut module = String::from("(component (core module (memory 1) (data (i32.const 60000) \"x\")");
        for global in 0..globals {
            module += &format!("(global $g{global} (mut i32) (i32.const {global}))");
        }
        for function in 0..3 {
            module += &format!(r#"(func (export "{function}") (param i32)"#);
            for global in 0..globals {
                module += &format!("(loop (global.set $g{global} (i32.sub (global.get $g{global}) (i32.const 1)))");
                module += &format!("(global.set $g{global} (i32.add (global.get $g{global}) (i32.const 1))))");
            }
            module += ")";
        }
        let began = Instant::now();
        let (_, found) = state(&(module + "))"));
        assert!(found.is_ok(), "what is not proved in time is moved to a memory");
        assert!(began.elapsed() < Duration::from_secs(60), "it took {:?}", began.elapsed());
    }

    #[test]
    fn what_nobody_can_call_changes_nothing() {
        // As what is left of start code once a tool has run it and taken the result for the component.
        let left = |more: &str| {
            format!(
                r#"(component (core module (table $t 1 funcref) (global $g (mut i32) (i32.const 0))
                    (func $set (table.set $t (i32.const 0) (ref.null func)) (global.set $g (i32.const 1)))
                    (func $init (call $set) (call $init)) {more}))"#
            )
        };
        let (wasm, found) = state(&left(""));
        assert!(found.is_ok());
        assert_eq!(wasm, wat::parse_str(left("")).unwrap(), "no global is moved");
        for more in [
            r#"(export "f" (func $init))"#,
            r#"(func (export "f") (call $init))"#,
            r#"(func $other (call $init)) (elem (i32.const 0) $other)"#,
            r#"(func $other (call $init)) (elem declare func $other)"#,
            r#"(func $other (call $init)) (global funcref (ref.func $other))"#,
            r#"(func $other (call $init)) (table 1 funcref (ref.func $other))"#,
        ] {
            assert!(state(&left(more)).1.is_err(), "{more}");
        }
    }

    #[test]
    fn what_only_the_start_does_is_no_change_afterwards() {
        let start = |more: &str| {
            format!(
                "(component (core module (table $t 1 funcref) (func $init (table.set $t (i32.const 0) (ref.func $init)))
                    (elem declare func $init) (start $init) {more}))"
            )
        };
        // The table could call it.
        assert!(state(&start("")).1.is_err());
        let start = start("").replace("(ref.func $init)", "(ref.null func)").replace("(elem declare func $init)", "");
        assert!(state(&start).1.is_ok());
        // The value has to be known, and the same for each instance.
        let by_size =
            start.replace("(i32.const 0)", "(memory.size)").replace("(core module", "(core module (memory 1)");
        let told = "its start function has `table.set`, in a way that is not known from its code alone (core module 0)";
        assert_eq!(state(&by_size).1.unwrap_err(), [told]);
    }

    #[test]
    fn a_shell_is_made_of_modules_wherever_they_are_with_their_globals_moved() {
        let counts = COUNTS.replace("(core module", "(core module (memory 1) (data (i32.const 0) \"x\")");
        let text = format!("(component {counts} (component {COUNTS} (component {counts} (core module (func)))))");
        let wasm = wat::parse_str(&text).unwrap();
        let Examined { wasm: whole, shell, state } = examine(&wasm);
        assert!(state.is_ok());
        let shape = |wasm: &[u8]| {
            let modules = Parts::of(wasm).unwrap().modules;
            modules.iter().map(|(_, module)| (module.memories, module.data.len())).collect::<Vec<_>>()
        };
        // A moved global's initial value is in a segment.
        assert_eq!(shape(&whole), [(2, 2), (1, 1), (2, 2), (0, 0)]);
        assert_eq!(shape(&shell.unwrap()), [(2, 0), (1, 0), (2, 0), (0, 0)]);
        assert_eq!(examine(&wat::parse_str("(component (core module (func)))").unwrap()).shell, None);
    }

    /// The bytes at the start of the memory that are taken for the stack, for a module with this pointer and more.
    fn dead(pointer: &str, more: &str) -> usize {
        let used = r#"(func (export "f") (param i32) (local i32)
            (global.set $sp (local.tee 1 (i32.sub (global.get $sp) (i32.const 16))))
            (global.set $sp (i32.add (local.get 1) (i32.const 16))))"#;
        let module =
            |says: &str| format!("(component (core module {says} (global $sp (mut i32) ({pointer})) {used} {more}))");
        assert_eq!(state(&module("")).1.unwrap().dead, 0, "nobody says that it is dead");
        state(&module("(@custom \"carrel:dead-stack\" \"\")")).1.unwrap().dead
    }

    #[test]
    fn the_stack_is_what_lies_below_its_pointer_if_all_data_lies_above() {
        let above = "(memory 1) (data (i32.const 8192) \"x\")";
        assert_eq!(dead("i32.const 8192", above), 8192);
        assert_eq!(dead("i32.const 8193", above), 0, "data below");
        assert_eq!(dead("i32.const 8192", "(memory 1)"), 0, "no data to tell by");
        assert_eq!(dead("i32.const 8192", &format!("{above} (memory 1)")), 0, "two memories");
        assert_eq!(dead("i32.const 8192", &format!("{above} (data (i32.const 16) \"x\")")), 0);
        let another = r#"(global $h (mut i32) (i32.const 1)) (func (export "h") (global.set $h (global.get $h)))"#;
        assert_eq!(dead("i32.const 8192", &format!("{above} {another}")), 0, "which of both?");
        let counts = r#"(global $h (mut i32) (i32.const 1)) (func (export "h") (global.set $h (i32.const 2)))"#;
        assert_eq!(dead("i32.const 8192", &format!("{above} {counts}")), 0, "a memory is added");
        let starts = "(start $init) (func $init (global.set $sp (i32.const 4096)))";
        assert_eq!(dead("i32.const 8192", &format!("{above} {starts}")), 0, "it is elsewhere after the start");
    }

    #[test]
    fn what_goes_up_or_by_what_nobody_knows_is_no_stack() {
        let above = "(memory 1) (data (i32.const 8192) \"x\")";
        let up = r#"(func (export "up") (global.set $sp (i32.add (global.get $sp) (i32.const 8)))
            (global.set $sp (i32.sub (global.get $sp) (i32.const 8))))"#;
        assert_eq!(dead("i32.const 8192", &format!("{above} {up}")), 0);
        let dynamic = r#"(func (export "by") (param i32) (local i32)
            (global.set $sp (i32.sub (local.tee 1 (global.get $sp)) (local.get 0)))
            (global.set $sp (local.get 1)))"#;
        assert_eq!(dead("i32.const 8192", &format!("{above} {dynamic}")), 0);
    }
}
