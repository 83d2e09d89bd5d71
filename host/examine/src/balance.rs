//! Proves that a global is left as it was found: by each function that sets it, on every way out.
//!
//! Compilers treat a stack pointer so: a function subtracts its frame from it at first and adds it again at the end.
//! The proof follows each function's code, with values that are the global's at the entry plus a constant, a
//! constant, or anything else. It assumes of every function that is called that it leaves the global as it found it;
//! since that is shown for each function which sets it, it holds for all calls that end, by induction over their
//! depth. A call that does not end well leaves no instance behind.
//!
//! Some exports take from the global what their `cabi_post_` partner, which the host calls after each of their calls,
//! gives back. Both together leave it as it was. That they are partners is seen from what the component lifts.
//!
//! If the proof cannot follow the code, the global is taken for one that changes.

use super::module::Module;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{
    BlockType, ContType, FrameKind, FuncType, FunctionBody, ModuleArity, Operator, RefType, SubType, ValType,
};

/// Values that a walk holds at once at the most, of operands and of the locals of frames each. Each takes 16 bytes.
const HELD: usize = 2_000_000;

/// Returns true if every function that may run during calls leaves a global as it found it.
pub(super) fn keeps(module: &Module<'_>, global: u32) -> bool {
    let number = matches!(module.globals[global as usize].ty, ValType::I32 | ValType::I64);
    // Looking for the setters looks at each function.
    if !number || !module.may_try(module.own_functions()) {
        return false;
    }
    let mut moved = BTreeMap::new();
    for (function, body) in module.setters(global) {
        match FunctionWalk::new(module, global, function).moves_by(body) {
            Some(0) => {}
            // A function that this module itself calls must leave the global unchanged.
            Some(by) if !module.is_called(function) => drop(moved.insert(function, by)),
            _ => return false,
        }
    }
    moved.iter().all(|(function, by)| {
        let partner = module.partner(*function).and_then(|partner| moved.get(&partner));
        partner.is_some_and(|back| back.checked_add(*by) == Some(0))
    })
}

/// Returns true if no function that may run during calls ever sets a global to more than it found, as with a stack
/// pointer that grows down.
pub(super) fn goes_down(module: &Module<'_>, global: u32) -> bool {
    module.setters(global).all(|(function, body)| {
        let mut walk = FunctionWalk::new(module, global, function);
        walk.follow(body).is_ok() && !walk.up
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// The global's value at the entry, plus this.
    Entry(i64),
    Constant(i64),
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct WalkState {
    locals: Vec<Value>,
    global: Value,
}

impl WalkState {
    /// Keeps only what holds on both of two paths to a place.
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

struct ControlFrame {
    kind: FrameKind,
    /// The number of the loop in the function, if the frame is one.
    number: usize,
    ty: BlockType,
    /// The number of operands below the frame.
    height: usize,
    /// The state at the frame's beginning.
    began: WalkState,
    /// The state after the frame, from the paths that have reached its end.
    exit: Option<WalkState>,
}

/// A walk through one function.
struct FunctionWalk<'a> {
    module: &'a Module<'a>,
    global: u32,
    wide: bool,
    frames: Vec<ControlFrame>,
    operands: Vec<Value>,
    /// `None` where the code cannot be reached.
    state: Option<WalkState>,
    function: u32,
    /// The amount by which the global is moved at the exits seen so far.
    moved: Option<i64>,
    /// For each loop, in order, the locals that a round may change. The sets begin empty, and the code is followed
    /// again until no more are found: a local set only on the way out of a loop, or before a trap, does not count.
    changing: Vec<BTreeSet<usize>>,
    /// Loops that were met in this pass.
    loops: usize,
    /// True if the global was set to what may be more than its value at the entry.
    up: bool,
}

/// The error of a proof that fails.
struct Unproved;

impl<'a> FunctionWalk<'a> {
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

    /// The amount by which the function moves the global, the same at every exit.
    fn moves_by(mut self, body: &FunctionBody<'_>) -> Option<i64> {
        self.follow(body).ok()?;
        // A function that never returns leaves nothing behind.
        Some(self.moved.unwrap_or(0))
    }

    /// Walks the code until the locals that change in loops are known.
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
        let state = WalkState { locals: vec![Value::Other; count], global: Value::Entry(0) };
        let ty = BlockType::FuncType(self.module.functions[self.function as usize]);
        self.frames.push(ControlFrame {
            kind: FrameKind::Block,
            number: 0,
            ty,
            height: 0,
            began: state.clone(),
            exit: None,
        });
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
                // Each round starts with the locals and the loop's parameters as the round before left them.
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
                self.push(params)?;
            }
            Operator::End => {
                self.leave()?;
                let (_, results) = self.arity_of_last()?;
                let mut frame = self.frames.pop().ok_or(Unproved)?;
                if frame.kind == FrameKind::If {
                    // Without an `else`, the state before the `if` also reaches its end.
                    match &mut frame.exit {
                        Some(exit) => exit.merge(&frame.began),
                        None => frame.exit = Some(frame.began),
                    }
                }
                self.operands.truncate(frame.height);
                self.push(results)?;
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
                self.push(results as usize)?;
            }
        }
        Ok(())
    }

    /// Accounts for further steps of the walk.
    fn takes(&self, steps: usize) -> Result<(), Unproved> {
        if self.module.may_try(steps) { Ok(()) } else { Err(Unproved) }
    }

    /// Copies the state, which takes as many steps as there are locals.
    fn keep(&mut self) -> Result<WalkState, Unproved> {
        let state = self.state()?.clone();
        self.takes(4 * state.locals.len())?;
        Ok(state)
    }

    fn enter(&mut self, kind: FrameKind, ty: BlockType) -> Result<(), Unproved> {
        let (params, _) = self.block_type_arity(ty).ok_or(Unproved)?;
        let height = self.operands.len().checked_sub(params as usize).ok_or(Unproved)?;
        let began = self.keep()?;
        // Each frame has two states at the most.
        if self.frames.len().saturating_mul(2 * began.locals.len()) > HELD {
            return Err(Unproved);
        }
        self.frames.push(ControlFrame { kind, number: self.loops, ty, height, began, exit: None });
        Ok(())
    }

    /// Merges the state into the block's exit, if its end can be reached.
    fn leave(&mut self) -> Result<(), Unproved> {
        let Some(state) = self.state.take() else { return Ok(()) };
        self.exits(self.frames.len().checked_sub(1).ok_or(Unproved)?, state)
    }

    fn jump(&mut self, depth: u32) -> Result<(), Unproved> {
        let index = self.frames.len().checked_sub(depth as usize + 1).ok_or(Unproved)?;
        let state = self.keep()?;
        let ControlFrame { kind, number, began, .. } = &self.frames[index];
        if *kind != FrameKind::Loop {
            return self.exits(index, state);
        }
        let locals = began.locals.iter().zip(&state.locals).enumerate();
        let changed = locals.filter(|(_, (began, now))| began != now && **began != Value::Other);
        self.changing[*number].extend(changed.map(|(local, _)| local));
        // The next round must find the global as the first one did.
        if began.global == state.global { Ok(()) } else { Err(Unproved) }
    }

    fn exits(&mut self, index: usize, state: WalkState) -> Result<(), Unproved> {
        if index == 0 {
            self.returns(state.global)?;
        }
        match &mut self.frames[index].exit {
            Some(exit) => exit.merge(&state),
            none => *none = Some(state),
        }
        Ok(())
    }

    /// Notes an exit at which the global has this value.
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

    fn state(&mut self) -> Result<&mut WalkState, Unproved> {
        self.state.as_mut().ok_or(Unproved)
    }

    fn local(&mut self, local: u32) -> Result<&mut Value, Unproved> {
        self.state()?.locals.get_mut(local as usize).ok_or(Unproved)
    }

    /// Pushes so many operands of which nothing is known.
    fn push(&mut self, operands: usize) -> Result<(), Unproved> {
        self.takes(operands)?;
        if self.operands.len() + operands > HELD {
            return Err(Unproved);
        }
        self.operands.extend(std::iter::repeat_n(Value::Other, operands));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, Unproved> {
        self.operands.pop().ok_or(Unproved)
    }

    /// An offset, wrapped to the global's type.
    fn wrap(&self, offset: i64) -> i64 {
        if self.wide { offset } else { i64::from(offset as i32) }
    }
}

/// Returns true for control-flow instructions that the walk does not follow.
pub(super) fn jumps_otherwise(operator: &Operator<'_>) -> bool {
    macro_rules! name {
        ($( @$proposal:ident $name:ident $({ $($argument:ident: $ty:ty),* })? => $visit:ident ($($annotation:tt)*))*) => {
            match operator {
                $(Operator::$name $({ $($argument: _),* })? => stringify!($name),)*
                // An instruction that this version of the parser does not list.
                _ => return true,
            }
        };
    }
    let name = wasmparser::for_each_operator!(name);
    let prefixes = ["Br", "Try", "Catch", "Throw", "Rethrow", "Delegate", "Resume", "Suspend", "Switch"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

impl ModuleArity for FunctionWalk<'_> {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.module.sub_type_at(index)
    }

    fn tag_type_arity(&self, tag: u32) -> Option<(u32, u32)> {
        self.module.tag_type_arity(tag)
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.module.type_index_of_function(function)
    }

    fn func_type_of_cont_type(&self, ty: &ContType) -> Option<&FuncType> {
        self.module.func_type_of_cont_type(ty)
    }

    fn sub_type_of_ref_type(&self, ty: &RefType) -> Option<&SubType> {
        self.module.sub_type_of_ref_type(ty)
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
mod tests;
