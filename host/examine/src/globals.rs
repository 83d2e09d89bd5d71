//! Globals that change between calls, moved to a linear memory of their own.
//!
//! Reads and writes of such a global become loads and stores at a constant address of a memory that is added to the
//! module; nothing else in the module changes its number. So the host, which owns linear memories, keeps globals with
//! the rest of an instance.

use super::{
    balance,
    module::Module,
    rewrite::{add_missing, bodies, instructions, longer, sections},
};
use std::collections::HashMap;
use wasm_encoder::{
    ConstExpr, DataSection, DataSegment, DataSegmentMode, Encode, Instruction, MemArg, MemorySection, MemoryType,
    RawSection, Section, SectionId, ValType as Encoded,
};
use wasmparser::{BinaryReader, FunctionBody, Operator, ValType};

/// Bytes that each global has in the memory: as many as the largest type has.
const CELL: u64 = 16;

/// The globals that may have another value between two calls than at the start.
pub(super) fn changing(module: &Module<'_>) -> Vec<u32> {
    module.set_globals().into_iter().filter(|global| !balance::keeps(module, *global)).collect()
}

/// Checks that a global can be moved; the error says why not.
pub(super) fn can_be_moved(module: &Module<'_>, global: u32) -> Result<(), &'static str> {
    let found = &module.globals[global as usize];
    if (global as usize) < module.imported_globals || found.exported {
        return Err("modules share it");
    }
    if matches!(found.ty, ValType::Ref(_)) {
        return Err("it is a reference, which is no memory");
    }
    match found.start {
        Some(_) => Ok(()),
        None => Err("it starts with another global's value"),
    }
}

/// Moves globals. Each must be movable.
pub(super) fn move_to_memory(wasm: &[u8], module: &Module<'_>, globals: &[u32]) -> wasmparser::Result<Vec<u8>> {
    let memory = module.imported_memories + module.memories;
    let cells = globals.iter().copied().zip(0..).collect();
    let moving = Moving { module, globals, cells, memory };
    let mut sections = sections(wasm)?;
    const MEMORY: u8 = SectionId::Memory as u8;
    const DATA_COUNT: u8 = SectionId::DataCount as u8;
    const CODE: u8 = SectionId::Code as u8;
    const DATA: u8 = SectionId::Data as u8;
    add_missing(&mut sections, &[MEMORY, DATA]);
    let mut out = wasm[..8].to_vec();
    for (id, content) in &sections {
        let content = match *id {
            MEMORY => moving.memory(content)?,
            DATA_COUNT => {
                let mut count = Vec::new();
                (BinaryReader::new(content, 0).read_var_u32()? + globals.len() as u32).encode(&mut count);
                count
            }
            CODE => moving.code(content)?,
            DATA => moving.data(content)?,
            _ => content.clone(),
        };
        RawSection { id: *id, data: &content }.append_to(&mut out);
    }
    Ok(out)
}

struct Moving<'a> {
    module: &'a Module<'a>,
    globals: &'a [u32],
    /// Each moved global's index among them.
    cells: HashMap<u32, u64>,
    /// The number of the memory that is added.
    memory: u32,
}

impl Moving<'_> {
    fn memory(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        let pages = (self.globals.len() as u64 * CELL).div_ceil(65536);
        let mut section = MemorySection::new();
        section.memory(MemoryType {
            minimum: pages,
            maximum: Some(pages),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        longer(content, &section, 1)
    }

    /// The data section with a segment for each global's initial value added.
    fn data(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        let mut section = DataSection::new();
        for (index, global) in self.globals.iter().enumerate() {
            let start = self.module.globals[*global as usize].start.unwrap_or(0).to_le_bytes();
            let offset = ConstExpr::i32_const((index as u64 * CELL) as i32);
            let mode = DataSegmentMode::Active { memory_index: self.memory, offset: &offset };
            section.segment(DataSegment { mode, data: start });
        }
        longer(content, &section, self.globals.len() as u32)
    }

    fn code(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        bodies(content, |index, body| {
            let params = self.module.params(self.module.imported_functions + index);
            self.function(body, params)
        })
    }

    /// Rewrites a function with loads and stores in place of its uses of the globals. A store takes its address
    /// first, so the value is kept in an added local of its type.
    fn function(&self, body: &FunctionBody<'_>, params: usize) -> wasmparser::Result<Vec<u8>> {
        let types = [
            (ValType::I32, Encoded::I32),
            (ValType::I64, Encoded::I64),
            (ValType::F32, Encoded::F32),
            (ValType::F64, Encoded::F64),
            (ValType::V128, Encoded::V128),
        ];
        let (bytes, start) = (body.as_bytes(), body.range().start);
        let mut groups = body.get_locals_reader()?;
        let (count, first_group) = (groups.get_count(), groups.original_position());
        let mut locals = params as u32;
        for _ in 0..count {
            locals += groups.read()?.0;
        }
        let code = body.get_operators_reader()?.original_position();
        let mut out = Vec::with_capacity(bytes.len() + 64);
        (count + types.len() as u32).encode(&mut out);
        out.extend_from_slice(&bytes[first_group - start..code - start]);
        for (_, ty) in types {
            1u32.encode(&mut out);
            ty.encode(&mut out);
        }
        let waiting = |ty: ValType| locals + types.iter().position(|(other, _)| *other == ty).unwrap_or(0) as u32;
        instructions(body, &mut out, |operator, out| {
            let (Operator::GlobalGet { global_index } | Operator::GlobalSet { global_index }) = *operator else {
                return false;
            };
            let Some(cell) = self.cells.get(&global_index) else { return false };
            let ty = self.module.globals[global_index as usize].ty;
            let place = MemArg { offset: cell * CELL, align: 2, memory_index: self.memory };
            let is_set = matches!(operator, Operator::GlobalSet { .. });
            if is_set {
                Instruction::LocalSet(waiting(ty)).encode(out);
            }
            Instruction::I32Const(0).encode(out);
            if is_set {
                Instruction::LocalGet(waiting(ty)).encode(out);
            }
            let access = match (ty, is_set) {
                (ValType::I32, true) => Instruction::I32Store(place),
                (ValType::I64, true) => Instruction::I64Store(place),
                (ValType::F32, true) => Instruction::F32Store(place),
                (ValType::F64, true) => Instruction::F64Store(place),
                (_, true) => Instruction::V128Store(place),
                (ValType::I32, false) => Instruction::I32Load(place),
                (ValType::I64, false) => Instruction::I64Load(place),
                (ValType::F32, false) => Instruction::F32Load(place),
                (ValType::F64, false) => Instruction::F64Load(place),
                (_, false) => Instruction::V128Load(place),
            };
            access.encode(out);
            true
        })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
