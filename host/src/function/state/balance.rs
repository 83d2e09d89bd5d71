//! Proves that a global is left as it was found: by each function that sets it, on every way out.
//!
//! That is what compilers make of a stack pointer: a function takes its frame off it at first and puts it back at the
//! end. The proof follows each function's code, with values that are the global's at the entry plus a constant, a constant,
//! or anything else. It assumes of every function that is called that it leaves the global as it found it;
//! since that is shown for each function which sets it, it holds for all calls that end, by induction over their depth.
//! A call that does not end well leaves no instance behind.
//!
//! Some exports take from the global what their `cabi_post_` partner, which the host calls after each of their calls,
//! gives back. Both together leave it as it was. That they are partners is seen from what the component lifts.
//!
//! What it cannot follow is not proved: the global is then taken for one that changes.

use super::module::Module;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{
    BlockType, ContType, FrameKind, FuncType, FunctionBody, ModuleArity, Operator, RefType, SubType, ValType,
};

/// Whether every function that may run during calls leaves a global as it found it.
pub(super) fn keeps(module: &Module<'_>, global: u32) -> bool {
    let number = matches!(module.globals[global as usize].ty, ValType::I32 | ValType::I64);
    // Looking for the setters looks at each function.
    if !number || !module.may_try(module.own_functions()) {
        return false;
    }
    let mut moved = BTreeMap::new();
    for (function, body) in module.setters(global) {
        match Walk::new(module, global, function).moves_by(body) {
            Some(0) => {}
            // What this module calls itself must leave it alone.
            Some(by) if !module.is_called(function) => drop(moved.insert(function, by)),
            _ => return false,
        }
    }
    moved.iter().all(|(function, by)| {
        let partner = module.partner(*function).and_then(|partner| moved.get(&partner));
        partner.is_some_and(|back| back.checked_add(*by) == Some(0))
    })
}

/// Whether no function that may run during calls ever sets a global to more than it found: so a stack pointer behaves
/// that goes down.
pub(super) fn goes_down(module: &Module<'_>, global: u32) -> bool {
    module.setters(global).all(|(function, body)| {
        let mut walk = Walk::new(module, global, function);
        walk.follow(body).is_ok() && !walk.up
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// What the global was at the entry, plus this.
    Entry(i64),
    Constant(i64),
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    locals: Vec<Value>,
    global: Value,
}

impl State {
    /// What holds on both of two ways to a place.
    fn merge(&mut self, other: &Self) {
        for (one, other) in self.locals.iter_mut().zip(&other.locals) {
            if one != other {
                *one = Value::Other;
            }
        }
        if self.global != other.global {
            self.global = Value::Other;
        }
    }
}

struct Frame {
    kind: FrameKind,
    /// Which of the function's loops it is, if it is one.
    number: usize,
    ty: BlockType,
    /// The operands below it.
    height: usize,
    /// What held where it began.
    began: State,
    /// What holds after it, as far as its end was reached.
    exit: Option<State>,
}

/// A walk through one function.
struct Walk<'a> {
    module: &'a Module<'a>,
    global: u32,
    wide: bool,
    frames: Vec<Frame>,
    operands: Vec<Value>,
    /// `None` where the code cannot be reached.
    state: Option<State>,
    function: u32,
    /// By how much the global is moved at the ways out that were seen.
    moved: Option<i64>,
    /// For each loop, in order, the locals that a round may leave other than it found them. It begins empty, and the
    /// code is followed again until no more are found: what is set on the way out of a loop, or before a trap, is none.
    changing: Vec<BTreeSet<usize>>,
    /// Loops that were met in this pass.
    loops: usize,
    /// The global was set to what is maybe more than it was at the entry.
    up: bool,
}

/// It cannot be proved.
struct Unproved;

impl<'a> Walk<'a> {
    fn new(module: &'a Module<'a>, global: u32, function: u32) -> Self {
        let wide = module.globals[global as usize].ty == ValType::I64;
        Self {
            module,
            global,
            wide,
            frames: Vec::new(),
            operands: Vec::new(),
            state: None,
            function,
            moved: None,
            changing: Vec::new(),
            loops: 0,
            up: false,
        }
    }

    /// By how much the function moves the global, whichever way it ends.
    fn moves_by(mut self, body: &FunctionBody<'_>) -> Option<i64> {
        self.follow(body).ok()?;
        // One that never ends well leaves nothing behind.
        Some(self.moved.unwrap_or(0))
    }

    /// Walks until it is known what changes in loops.
    fn follow(&mut self, body: &FunctionBody<'_>) -> Result<(), Unproved> {
        loop {
            let known: usize = self.changing.iter().map(BTreeSet::len).sum();
            self.walk(body)?;
            if self.changing.iter().map(BTreeSet::len).sum::<usize>() == known {
                return Ok(());
            }
        }
    }

    fn walk(&mut self, body: &FunctionBody<'_>) -> Result<(), Unproved> {
        let params = self.module.params(self.function as usize);
        let mut count = params;
        for group in body.get_locals_reader().map_err(|_| Unproved)? {
            count += group.map_err(|_| Unproved)?.0 as usize;
        }
        let state = State { locals: vec![Value::Other; count], global: Value::Entry(0) };
        let ty = BlockType::FuncType(self.module.functions[self.function as usize]);
        self.frames.push(Frame { kind: FrameKind::Block, number: 0, ty, height: 0, began: state.clone(), exit: None });
        self.state = Some(state);
        self.operands.clear();
        self.moved = None;
        self.loops = 0;
        // Blocks within code that cannot be reached.
        let mut beyond = 0;
        for operator in body.get_operators_reader().map_err(|_| Unproved)? {
            let operator = operator.map_err(|_| Unproved)?;
            self.takes(1)?;
            if self.state.is_some() {
                self.step(&operator)?;
                continue;
            }
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => beyond += 1,
                Operator::End if beyond > 0 => beyond -= 1,
                Operator::Else | Operator::End if beyond == 0 => self.step(&operator)?,
                _ => {}
            }
        }
        if self.frames.is_empty() { Ok(()) } else { Err(Unproved) }
    }

    fn step(&mut self, operator: &Operator<'_>) -> Result<(), Unproved> {
        match operator {
            Operator::GlobalGet { global_index } if *global_index == self.global => {
                let value = self.state()?.global;
                self.operands.push(value);
            }
            Operator::GlobalSet { global_index } if *global_index == self.global => {
                let value = self.pop()?;
                self.state()?.global = value;
                self.up |= !matches!(value, Value::Entry(by) if by <= 0);
            }
            Operator::I32Const { value } => self.operands.push(Value::Constant((*value).into())),
            Operator::I64Const { value } => self.operands.push(Value::Constant(*value)),
            Operator::I32Add | Operator::I64Add => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.operands.push(match (a, b) {
                    (Value::Entry(at), Value::Constant(by)) | (Value::Constant(by), Value::Entry(at)) => {
                        Value::Entry(self.wrap(at.wrapping_add(by)))
                    }
                    _ => Value::Other,
                });
            }
            Operator::I32Sub | Operator::I64Sub => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.operands.push(match (a, b) {
                    (Value::Entry(at), Value::Constant(by)) => Value::Entry(self.wrap(at.wrapping_sub(by))),
                    _ => Value::Other,
                });
            }
            Operator::LocalGet { local_index } => {
                let value = *self.local(*local_index)?;
                self.operands.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.pop()?;
                *self.local(*local_index)? = value;
            }
            Operator::LocalTee { local_index } => {
                let value = *self.operands.last().ok_or(Unproved)?;
                *self.local(*local_index)? = value;
            }
            Operator::Block { blockty } => self.enter(FrameKind::Block, *blockty)?,
            Operator::Loop { blockty } => {
                // Each round finds what the rounds before have left in the locals, and as the loop's parameters.
                if self.changing.len() == self.loops {
                    self.changing.push(BTreeSet::new());
                }
                let locals = &mut self.state.as_mut().ok_or(Unproved)?.locals;
                for local in &self.changing[self.loops] {
                    locals[*local] = Value::Other;
                }
                self.enter(FrameKind::Loop, *blockty)?;
                let height = self.frames.last().ok_or(Unproved)?.height;
                self.operands[height..].fill(Value::Other);
                self.loops += 1;
            }
            Operator::If { blockty } => {
                self.pop()?;
                self.enter(FrameKind::If, *blockty)?;
            }
            Operator::Else => {
                self.leave()?;
                let (params, _) = self.arity_of_last()?;
                let frame = self.frames.last_mut().ok_or(Unproved)?;
                frame.kind = FrameKind::Else;
                self.state = Some(frame.began.clone());
                self.operands.truncate(frame.height);
                self.operands.extend(std::iter::repeat_n(Value::Other, params));
            }
            Operator::End => {
                self.leave()?;
                let (_, results) = self.arity_of_last()?;
                let mut frame = self.frames.pop().ok_or(Unproved)?;
                if frame.kind == FrameKind::If {
                    // Without an `else`, what held before holds after it as well.
                    match &mut frame.exit {
                        Some(exit) => exit.merge(&frame.began),
                        None => frame.exit = Some(frame.began),
                    }
                }
                self.operands.truncate(frame.height);
                self.operands.extend(std::iter::repeat_n(Value::Other, results));
                self.state = frame.exit;
            }
            Operator::Br { relative_depth } => {
                self.jump(*relative_depth)?;
                self.state = None;
            }
            Operator::BrIf { relative_depth } => {
                self.pop()?;
                self.jump(*relative_depth)?;
            }
            Operator::BrTable { targets } => {
                self.pop()?;
                for target in targets.targets() {
                    self.jump(target.map_err(|_| Unproved)?)?;
                }
                self.jump(targets.default())?;
                self.state = None;
            }
            Operator::Return
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. } => {
                let global = self.state()?.global;
                self.returns(global)?;
                self.state = None;
            }
            Operator::Unreachable => self.state = None,
            _ if jumps_otherwise(operator) => return Err(Unproved),
            _ => {
                let (params, results) = operator.operator_arity(&*self).ok_or(Unproved)?;
                for _ in 0..params {
                    self.pop()?;
                }
                self.operands.extend(std::iter::repeat_n(Value::Other, results as usize));
            }
        }
        Ok(())
    }

    /// The walk takes so many steps more.
    fn takes(&self, steps: usize) -> Result<(), Unproved> {
        if self.module.may_try(steps) { Ok(()) } else { Err(Unproved) }
    }

    /// What holds here, to be kept: it takes as much as there are locals.
    fn keep(&mut self) -> Result<State, Unproved> {
        let state = self.state()?.clone();
        self.takes(4 * state.locals.len())?;
        Ok(state)
    }

    fn enter(&mut self, kind: FrameKind, ty: BlockType) -> Result<(), Unproved> {
        let (params, _) = self.block_type_arity(ty).ok_or(Unproved)?;
        let height = self.operands.len().checked_sub(params as usize).ok_or(Unproved)?;
        let began = self.keep()?;
        self.frames.push(Frame { kind, number: self.loops, ty, height, began, exit: None });
        Ok(())
    }

    /// The end of a block is reached, if it is.
    fn leave(&mut self) -> Result<(), Unproved> {
        let Some(state) = self.state.take() else { return Ok(()) };
        self.exits(self.frames.len().checked_sub(1).ok_or(Unproved)?, state)
    }

    fn jump(&mut self, depth: u32) -> Result<(), Unproved> {
        let index = self.frames.len().checked_sub(depth as usize + 1).ok_or(Unproved)?;
        let state = self.keep()?;
        let Frame { kind, number, began, .. } = &self.frames[index];
        if *kind != FrameKind::Loop {
            return self.exits(index, state);
        }
        let locals = began.locals.iter().zip(&state.locals).enumerate();
        let changed = locals.filter(|(_, (began, now))| began != now && **began != Value::Other);
        self.changing[*number].extend(changed.map(|(local, _)| local));
        // The next round must find the global as the first one did.
        if began.global == state.global { Ok(()) } else { Err(Unproved) }
    }

    fn exits(&mut self, index: usize, state: State) -> Result<(), Unproved> {
        if index == 0 {
            self.returns(state.global)?;
        }
        match &mut self.frames[index].exit {
            Some(exit) => exit.merge(&state),
            none => *none = Some(state),
        }
        Ok(())
    }

    /// A way out, on which the global has this value.
    fn returns(&mut self, global: Value) -> Result<(), Unproved> {
        match global {
            Value::Entry(by) if *self.moved.get_or_insert(by) == by => Ok(()),
            _ => Err(Unproved),
        }
    }

    fn arity_of_last(&self) -> Result<(usize, usize), Unproved> {
        let frame = self.frames.last().ok_or(Unproved)?;
        let (params, results) = self.block_type_arity(frame.ty).ok_or(Unproved)?;
        Ok((params as usize, results as usize))
    }

    fn state(&mut self) -> Result<&mut State, Unproved> {
        self.state.as_mut().ok_or(Unproved)
    }

    fn local(&mut self, local: u32) -> Result<&mut Value, Unproved> {
        self.state()?.locals.get_mut(local as usize).ok_or(Unproved)
    }

    fn pop(&mut self) -> Result<Value, Unproved> {
        self.operands.pop().ok_or(Unproved)
    }

    /// An offset, as the global's type counts.
    fn wrap(&self, offset: i64) -> i64 {
        if self.wide { offset } else { i64::from(offset as i32) }
    }
}

/// Instructions that go elsewhere in ways that the walk does not follow.
fn jumps_otherwise(operator: &Operator<'_>) -> bool {
    macro_rules! name {
        ($( @$proposal:ident $name:ident $({ $($argument:ident: $ty:ty),* })? => $visit:ident ($($annotation:tt)*))*) => {
            match operator {
                $(Operator::$name $({ $($argument: _),* })? => stringify!($name),)*
                // One that this version of the parser does not list.
                _ => return true,
            }
        };
    }
    let name = wasmparser::for_each_operator!(name);
    let prefixes = ["Br", "Try", "Catch", "Throw", "Rethrow", "Delegate", "Resume", "Suspend", "Switch"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

impl ModuleArity for Walk<'_> {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.module.types.get(index as usize)
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.module.functions.get(function as usize).copied()
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        self.frames.len() as u32
    }

    fn label_block(&self, depth: u32) -> Option<(BlockType, FrameKind)> {
        let frame = self.frames.get(self.frames.len().checked_sub(depth as usize + 1)?)?;
        Some((frame.ty, frame.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::{Module, keeps};
    use proptest::prelude::*;
    use wasmtime::{Config, Engine, Instance, Store};

    /// A module with a stack pointer, a memory, and these functions.
    fn module(functions: &str) -> Vec<u8> {
        let text = format!(r#"(module (memory 1) (global $sp (export "sp") (mut i32) (i32.const 4096)) {functions})"#);
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    /// Whether its stack pointer is proved to be left as it was found.
    fn proved(functions: &str) -> bool {
        keeps(&Module::read(&module(functions)).unwrap(), 0)
    }

    /// A function that takes a frame of 16 bytes, has its address in `$frame`, and gives the frame back.
    fn framed(body: &str) -> String {
        format!(
            "(func $f (export \"f\") (param $n i32) (result i32) (local $frame i32) (local $other i32)
                (global.set $sp (local.tee $frame (i32.sub (global.get $sp) (i32.const 16))))
                {body}
                (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
                (local.get $n))"
        )
    }

    const GIVE_BACK: &str = "(global.set $sp (i32.add (local.get $frame) (i32.const 16)))";

    #[test]
    fn a_frame_that_is_given_back_is_proved() {
        assert!(proved(&framed("")));
        assert!(proved(&framed("(i32.store (local.get $frame) (call $f (local.get $n)))")), "a call changes nothing");
        assert!(proved(
            "(func (global.set $sp (i32.add (i32.const -16) (global.get $sp))) (global.set $sp (i32.sub (global.get $sp) (i32.const -16))))"
        ));
        assert!(proved("(func (global.set $sp (global.get $sp)))"));
    }

    #[test]
    fn a_frame_that_is_kept_is_not() {
        let take = "(global.set $sp (i32.sub (global.get $sp) (i32.const 16)))";
        assert!(!proved(&format!("(func {take})")));
        assert!(!proved(&framed(take)) || proved(&framed("")), "the frame's address says where to go back to");
        assert!(!proved(&format!("(func {take} (global.set $sp (i32.add (global.get $sp) (i32.const 12))))")));
        assert!(!proved("(func (global.set $sp (i32.const 4096)))"), "a number is not what was found");
        assert!(!proved("(func (param i32) (global.set $sp (local.get 0)))"));
        assert!(!proved("(func (global.set $sp (i32.load (i32.const 0))))"));
        assert!(!proved("(func (global.set $sp (i32.add (global.get $sp) (global.get $sp))))"));
        assert!(!proved("(func (global.set $sp (i32.sub (i32.const 0) (global.get $sp))))"));
    }

    #[test]
    fn each_way_out_counts() {
        let early = |before: &str| framed(&format!("(if (local.get $n) (then {before} (return (i32.const 1))))"));
        assert!(proved(&early(GIVE_BACK)));
        assert!(!proved(&early("")));
        let branch = |before: &str| {
            framed(&format!("(block $out (block $in (br_if $in (local.get $n)) {before} (br $out)) {GIVE_BACK})"))
        };
        assert!(proved(&branch("")));
        let both = format!(
            "(func (param i32) (local $frame i32)
            (global.set $sp (local.tee $frame (i32.sub (global.get $sp) (i32.const 16))))
            (block $out (block $in (br_if $in (local.get 0)) {GIVE_BACK} (br $out)) HERE))"
        );
        assert!(proved(&both.replace("HERE", GIVE_BACK)));
        assert!(!proved(&both.replace("HERE", "")));
        assert!(!proved(&framed("(if (local.get $n) (then) (else (local.set $frame (i32.const 0))))")));
        let arms = "(func (param i32) (if (local.get 0)
            (then (global.set $sp (i32.sub (global.get $sp) (i32.const 8))) (global.set $sp (i32.add (global.get $sp) (i32.const 8))))
            (else HERE)))";
        assert!(proved(&arms.replace("HERE", "")));
        assert!(!proved(&arms.replace("HERE", "(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))")));
        let table = "(func (param i32) (local $frame i32) (local.set $frame (global.get $sp))
            (block $a (block $b (block $c
                (br_table $a $b $c (local.get 0)))
                HERE)
                (global.set $sp (local.get $frame))))";
        assert!(proved(&table.replace("HERE", "")));
        let kept = "(global.set $sp (i32.const 8)) (br $a)";
        assert!(!proved(&table.replace("HERE", kept)));
        let after_its_end =
            "(br $a) (global.set $sp (i32.const 8)) (loop (br 0)) (block) (if (i32.const 1) (then) (else))";
        assert!(proved(&table.replace("HERE", after_its_end)), "nobody comes there");
    }

    #[test]
    fn a_way_that_ends_in_a_trap_leaves_nothing() {
        assert!(proved("(func (global.set $sp (i32.const 0)) unreachable)"));
        assert!(proved(&framed("(if (local.get $n) (then (global.set $sp (i32.const 0)) unreachable))")));
        assert!(proved("(func (global.set $sp (i32.const 0)) (loop (br 0)))"));
    }

    #[test]
    fn a_frame_as_large_as_the_program_says_is_proved_by_what_was_saved() {
        let dynamic = "(global.set $sp (i32.and (i32.sub (global.get $sp) (local.get $n)) (i32.const -16)))";
        assert!(proved(&framed(dynamic)));
        assert!(!proved(&format!("(func (param $n i32) {dynamic})")));
        assert!(!proved(&framed(&format!("{dynamic} (local.set $frame (global.get $sp))"))));
    }

    #[test]
    fn rounds_of_a_loop_must_find_what_the_first_one_found() {
        let counted = |body: &str| {
            framed(&format!(
                "(loop $again {body}
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br_if $again (i32.gt_s (local.get $n) (i32.const 0))))"
            ))
        };
        assert!(proved(&counted("")));
        let within = "(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))
            (global.set $sp (i32.add (global.get $sp) (i32.const 8)))";
        assert!(proved(&counted(within)));
        assert!(!proved(&counted("(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))")));
        // The frame's address is right in the first round alone.
        let second = "(global.set $sp (i32.sub (local.get $frame) (i32.const 0)))
            (local.set $frame (i32.add (local.get $frame) (local.get $n)))";
        assert!(!proved(&counted(second)));
        // What is found to change in an inner loop changes in the outer one too.
        let nested = "(local.set $other (i32.const 3))
            (loop $inner
                (local.set $frame (i32.add (local.get $frame) (i32.const 1)))
                (br_if $inner (local.tee $other (i32.sub (local.get $other) (i32.const 1)))))";
        assert!(!proved(&counted(nested)));
        // Two values that swap places from round to round.
        let swapped = "(func (param $n i32) (local $a i32) (local $b i32) (local $c i32)
            (local.set $a (global.get $sp))
            (loop $again
                (local.set $c (local.get $a)) (local.set $a (local.get $b)) (local.set $b (local.get $c))
                (br_if $again (local.tee $n (i32.shr_u (local.get $n) (i32.const 1)))))
            (global.set $sp (local.get $b)))";
        assert!(!proved(swapped));
    }

    #[test]
    fn a_local_that_is_set_in_a_loop_and_never_found_by_a_round_is_what_it_was() {
        let reused = "(loop $again
            (if (local.get $n) (then (local.set $frame (i32.const 7)) (drop (call $f (local.get $frame))) unreachable))
            (br_if $again (call $f (i32.const 1))))";
        assert!(proved(&framed(reused)), "compilers use the frame's local again where it is not needed any more");
        let left = "(loop $again
            (if (local.get $n) (then (global.set $sp (i32.add (local.tee $frame (local.get $frame)) (i32.const 16)))
                (local.set $frame (i32.const 7)) (return (i32.const 1))))
            (br_if $again (call $f (i32.const 1))))";
        assert!(proved(&framed(left)));
    }

    #[test]
    fn a_loops_parameters_are_another_rounds_too() {
        let parameter = "(func (param $n i32)
            (global.get $sp)
            (loop $again (param i32)
                (global.set $sp)
                (i32.const 7)
                (br_if $again (local.tee $n (i32.shr_u (local.get $n) (i32.const 1))))
                (drop)))";
        assert!(!proved(parameter));
    }

    #[test]
    fn a_tail_call_is_a_way_out() {
        let tail =
            |before: &str| framed(&format!("(if (local.get $n) (then {before} (return_call $f (i32.const 0))))"));
        assert!(proved(&tail(GIVE_BACK)));
        assert!(!proved(&tail("")));
    }

    #[test]
    fn what_a_post_return_gives_back_is_proved_for_both() {
        let pair = |take: i32, give: i32, more: &str| {
            proved(&format!(
                r#"(func $f (export "f") (result i32)
                    (global.set $sp (i32.sub (global.get $sp) (i32.const {take}))) (global.get $sp))
                (func (export "cabi_post_f") (param i32)
                    (global.set $sp (i32.add (global.get $sp) (i32.const {give})))) {more}"#
            ))
        };
        assert!(pair(16, 16, ""));
        assert!(!pair(16, 12, ""));
        assert!(!pair(16, 0, ""), "one alone");
        assert!(!pair(16, 16, "(func (drop (call $f)))"), "which calls only one of both");
        assert!(!pair(16, 16, "(table funcref (elem $f))"), "which could");
    }

    #[test]
    fn only_numbers_are_followed() {
        let global = |global: &str, function: &str| {
            let wasm = wat::parse_str(format!("(module (global $g (mut {global}) ({global}.const 0)) {function})"));
            keeps(&Module::read(&wasm.unwrap()).unwrap(), 0)
        };
        let same = "(func (global.set $g (global.get $g)))";
        assert!(global("i64", same) && global("i32", same));
        assert!(!global("f32", same) && !global("f64", same));
        let wide = "(func (global.set $g (i64.add (global.get $g) (i64.const 0x100000000))))";
        assert!(!global("i64", wide));
    }

    /// Code that moves the stack pointer about, in text: what is a number is so for the generator to vary.
    fn code() -> impl Strategy<Value = String> {
        let local = || prop_oneof![4 => 0..2u32, 1 => 2..5u32].prop_map(|local| format!("$l{local}"));
        let by = || prop_oneof![Just(8), Just(-8), Just(16), Just(-16), Just(0)];
        let simple = prop_oneof![
            4 => by().prop_map(|by| format!("(global.set $sp (i32.add (global.get $sp) (i32.const {by})))")),
            2 => by().prop_map(|by| format!("(global.set $sp (i32.sub (global.get $sp) (i32.const {by})))")),
            4 => local().prop_map(|local| format!("(local.set {local} (global.get $sp))")),
            4 => (local(), by()).prop_map(|(local, by)| {
                format!("(global.set $sp (i32.add (local.get {local}) (i32.const {by})))")
            }),
            2 => (local(), local()).prop_map(|(to, from)| format!("(local.set {to} (local.get {from}))")),
            1 => (local(), by()).prop_map(|(local, by)| format!("(local.set {local} (i32.const {by}))")),
            1 => (0..4u32).prop_map(|depth| format!("(br_if {depth} (call $odd))")),
            1 => (0..4u32, 0..4u32).prop_map(|(a, b)| format!("(if (call $odd) (then (br_table {a} {b} (call $odd))))")),
            1 => Just("(if (call $odd) (then return))".to_owned()),
            1 => Just("(if (call $odd) (then unreachable))".to_owned()),
        ];
        let lines = |line: BoxedStrategy<String>| prop::collection::vec(line, 0..5).prop_map(|lines| lines.join("\n"));
        let nested = simple.prop_recursive(4, 40, 5, move |inner| {
            let (body, local) = (lines(inner.boxed()).boxed(), (0..2u32).prop_map(|local| format!("$l{local}")));
            prop_oneof![
                body.clone().prop_map(|body| format!("(block {body})")),
                body.clone().prop_map(|body| format!("(loop {body} (br_if 0 (call $odd)))")),
                (body.clone(), body.clone()).prop_map(|(a, b)| format!("(if (call $odd) (then {a}) (else {b}))")),
                body.clone().prop_map(|body| format!("(if (call $odd) (then {body}))")),
                (body.clone(), local).prop_map(|(body, local)| {
                    format!("global.get $sp (loop (param i32) global.set $sp {body} local.get {local} (br_if 0 (call $odd)) drop)")
                }),
                // Most of what is random keeps nothing: this is what keeps all.
                (body, 2..5u32).prop_map(|(body, kept)| {
                    format!("(local.set $l{kept} (global.get $sp)) (block {body}) (global.set $sp (local.get $l{kept}))")
                }),
            ]
        });
        prop::collection::vec(nested, 1..6).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is proved holds for every run, by which way it ever goes.
        #[test]
        fn what_is_proved_is_so(code in code(), ways in prop::collection::vec(any::<u32>(), 8)) {
            let functions = format!(
                r#"(global $ways (export "ways") (mut i32) (i32.const 0))
                (func $odd (result i32)
                    (i32.and (global.get $ways) (i32.const 1))
                    (global.set $ways (i32.shr_u (global.get $ways) (i32.const 1))))
                (func (export "f") (local $l0 i32) (local $l1 i32) (local $l2 i32) (local $l3 i32) (local $l4 i32)
                    (block $a (block $b (block $c {code}))))"#
            );
            let wasm = module(&functions);
            if !keeps(&Module::read(&wasm).unwrap(), 0) {
                return Ok(());
            }
            let engine = Engine::new(Config::new().consume_fuel(true)).unwrap();
            // A jump to a loop that takes a parameter may lack one.
            let Ok(compiled) = wasmtime::Module::new(&engine, &wasm) else { return Ok(()) };
            for way in ways {
                let mut store = Store::new(&engine, ());
                store.set_fuel(10_000).unwrap();
                let instance = Instance::new(&mut store, &compiled, &[]).unwrap();
                instance.get_global(&mut store, "ways").unwrap().set(&mut store, (way as i32).into()).unwrap();
                let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
                if f.call(&mut store, ()).is_ok() {
                    let sp = instance.get_global(&mut store, "sp").unwrap().get(&mut store).i32();
                    prop_assert_eq!(sp, Some(4096), "by {:#b}", way);
                }
            }
        }
    }
}
