//! Divides bulk instructions, which write to as much of a memory or a table as their operands say.
//!
//! The engine looks at the clock between two instructions. `memory.fill`, `memory.copy` and `memory.init` may take a
//! tenth of a second, in which nothing else runs on their thread: of a guarded memory, each page is noticed first.
//! The same three of a table take as long for a few million elements. So an instruction for more than a piece,
//! [`BYTES`] or [`ELEMENTS`], or for a number known only at run time, is replaced by a call of a function that does
//! the same in pieces. One that goes past the end of a memory, a table or a segment writes nothing, as before: it is
//! not divided.

use super::rewrite::{add_missing, bodies, instructions, longer, sections};
use std::{borrow::Cow, collections::BTreeMap};
use wasm_encoder::{
    BlockType, CodeSection, Encode, Function, FunctionSection, HeapType, Instruction, InstructionSink, RawSection,
    RefType, Section, SectionId, TypeSection, ValType,
};
use wasmparser::{CodeSectionReader, ElementItems, Operator, Parser, Payload, TypeRef, UnpackedIndex};

/// Bytes that one instruction writes, at the most: a few microseconds, or 100 of them where each page is noticed.
const BYTES: i32 = 64 << 10;
/// Elements of a table that one instruction writes, at the most: a few hundred microseconds, the first time.
/// Compilers' start code fills fewer, with a constant size: that stays as it is.
const ELEMENTS: i32 = 32 << 10;

// The locals of a function that divides one: its parameters, and one for how much there is.
const TO: u32 = 0;
const FROM: u32 = 1;
const LEFT: u32 = 2;
const THERE: u32 = 3;

/// The module with its instructions divided; borrowed, if it has none of these. It has to be valid.
pub(super) fn divided(wasm: &[u8]) -> wasmparser::Result<Cow<'_, [u8]>> {
    const TYPE: u8 = SectionId::Type as u8;
    const FUNCTION: u8 = SectionId::Function as u8;
    const CODE: u8 = SectionId::Code as u8;
    let module = Sizes::of(wasm)?;
    if module.dividing.is_empty() {
        return Ok(Cow::Borrowed(wasm));
    }
    // Each gets a type and a function behind those that there are.
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    let mut calls = BTreeMap::new();
    for (bulk, more) in module.dividing.iter().zip(0..) {
        types.ty().function(module.parameters(bulk), []);
        functions.function(module.types + more);
        code.function(&module.in_pieces(bulk));
        calls.insert(*bulk, module.functions + more);
    }
    let more = calls.len() as u32;
    let mut sections = sections(wasm)?;
    add_missing(&mut sections, &[TYPE, FUNCTION, CODE]);
    let mut out = wasm[..8].to_vec();
    for (id, content) in &sections {
        let content = match *id {
            TYPE => Cow::Owned(longer(content, &types, more)?),
            FUNCTION => Cow::Owned(longer(content, &functions, more)?),
            CODE => {
                let called = bodies(content, |_, body| {
                    let header = body.get_operators_reader()?.original_position() - body.range().start;
                    let mut out = body.as_bytes()[..header].to_vec();
                    let mut before = None;
                    instructions(body, &mut out, |operator, out| {
                        let called = Bulk::of(operator, before).and_then(|bulk| calls.get(&bulk));
                        called.inspect(|function| Instruction::Call(**function).encode(out));
                        before = constant(operator);
                        called.is_some()
                    })?;
                    Ok(out)
                })?;
                Cow::Owned(longer(&called, &code, more)?)
            }
            _ => Cow::Borrowed(content.as_slice()),
        };
        RawSection { id: *id, data: &content }.append_to(&mut out);
    }
    Ok(Cow::Owned(out))
}

/// An instruction that is to be divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bulk {
    Fill(Area),
    /// Copies to the first place from the second, which may be a segment.
    Copy(Area, Area),
}

/// A part of a module that an instruction writes to, or reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Area {
    Memory(u32),
    Table(u32),
    /// A data segment.
    Data(u32),
    /// An element segment.
    Elements(u32),
}

impl Area {
    /// The most bytes or elements that one instruction writes to the place.
    fn piece(self) -> i32 {
        match self {
            Self::Memory(_) | Self::Data(_) => BYTES,
            Self::Table(_) | Self::Elements(_) => ELEMENTS,
        }
    }
}

impl Bulk {
    /// Returns the operation to be divided, if this instruction is one. `before` is the number that the previous
    /// instruction leaves on the stack, if known.
    fn of(operator: &Operator<'_>, before: Option<u64>) -> Option<Self> {
        let bulk = match *operator {
            Operator::MemoryFill { mem } => Self::Fill(Area::Memory(mem)),
            Operator::MemoryCopy { dst_mem, src_mem } => Self::Copy(Area::Memory(dst_mem), Area::Memory(src_mem)),
            Operator::MemoryInit { mem, data_index } => Self::Copy(Area::Memory(mem), Area::Data(data_index)),
            Operator::TableFill { table } => Self::Fill(Area::Table(table)),
            Operator::TableCopy { dst_table, src_table } => Self::Copy(Area::Table(dst_table), Area::Table(src_table)),
            Operator::TableInit { table, elem_index } => Self::Copy(Area::Table(table), Area::Elements(elem_index)),
            _ => return None,
        };
        let piece = bulk.to().piece().unsigned_abs().into();
        if before.is_some_and(|size| size <= piece) { None } else { Some(bulk) }
    }

    /// The place written to.
    fn to(self) -> Area {
        match self {
            Self::Fill(to) | Self::Copy(to, _) => to,
        }
    }

    /// The instruction itself.
    fn encode(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Fill(Area::Memory(memory)) => code.memory_fill(memory),
            Self::Fill(Area::Table(table)) => code.table_fill(table),
            Self::Copy(Area::Memory(to), Area::Memory(from)) => code.memory_copy(to, from),
            Self::Copy(Area::Memory(to), Area::Data(from)) => code.memory_init(to, from),
            Self::Copy(Area::Table(to), Area::Table(from)) => code.table_copy(to, from),
            Self::Copy(Area::Table(to), Area::Elements(from)) => code.table_init(to, from),
            // There is no such instruction.
            Self::Fill(_) | Self::Copy(..) => code.unreachable(),
        };
    }
}

fn constant(operator: &Operator<'_>) -> Option<u64> {
    match *operator {
        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
        Operator::I64Const { value } => Some(value.cast_unsigned()),
        _ => None,
    }
}

/// A memory's or a table's type of addresses, and the size of the unit that it is counted in: pages for a memory.
#[derive(Debug, Clone, Copy)]
struct Extent {
    address: ValType,
    unit_log2: u32,
    /// The type of the elements, or of the value that fills bytes; `None` for kinds of references that are not known
    /// here.
    of: Option<ValType>,
}

/// A module's counts of each kind of item, and the instructions to be divided.
#[derive(Debug, Default)]
struct Sizes {
    types: u32,
    functions: u32,
    memories: Vec<Extent>,
    tables: Vec<Extent>,
    /// Bytes of the data segments.
    data: Vec<u64>,
    /// Elements of the element segments.
    elements: Vec<u64>,
    dividing: Vec<Bulk>,
}

impl Sizes {
    fn of(wasm: &[u8]) -> wasmparser::Result<Self> {
        let mut sizes = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        sizes.types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => sizes.functions += 1,
                            TypeRef::Memory(memory) => sizes.memories.push(Extent::of_memory(&memory)),
                            TypeRef::Table(table) => sizes.tables.push(Extent::of_table(&table)),
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(section) => sizes.functions += section.count(),
                Payload::MemorySection(section) => {
                    for memory in section {
                        sizes.memories.push(Extent::of_memory(&memory?));
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        sizes.tables.push(Extent::of_table(&table?.ty));
                    }
                }
                Payload::ElementSection(section) => {
                    for elements in section {
                        sizes.elements.push(match elements?.items {
                            ElementItems::Functions(all) => all.count().into(),
                            ElementItems::Expressions(_, all) => all.count().into(),
                        });
                    }
                }
                Payload::DataSection(section) => {
                    for data in section {
                        sizes.data.push(data?.data.len() as u64);
                    }
                }
                Payload::CodeSectionStart { range, .. } => {
                    let content = wasm.get(range).unwrap_or_default();
                    for body in CodeSectionReader::new(wasmparser::BinaryReader::new(content, 0))? {
                        let mut before = None;
                        for operator in body?.get_operators_reader()? {
                            let operator = operator?;
                            let bulk = Bulk::of(&operator, before).filter(|bulk| sizes.can_divide(bulk));
                            sizes.dividing.extend(bulk);
                            before = constant(&operator);
                        }
                    }
                    sizes.dividing.sort_unstable();
                    sizes.dividing.dedup();
                }
                _ => {}
            }
        }
        Ok(sizes)
    }

    /// A memory's or a table's extent; `None` for a segment.
    fn extent(&self, place: Area) -> Option<Extent> {
        match place {
            Area::Memory(memory) => self.memories.get(memory as usize).copied(),
            Area::Table(table) => self.tables.get(table as usize).copied(),
            Area::Data(_) | Area::Elements(_) => None,
        }
    }

    /// The type of addresses in a place.
    fn address(&self, place: Area) -> ValType {
        self.extent(place).map_or(ValType::I32, |extent| extent.address)
    }

    /// True if the types of the instruction's operands are known here.
    fn can_divide(&self, bulk: &Bulk) -> bool {
        match *bulk {
            Bulk::Fill(place) => self.extent(place).is_some_and(|extent| extent.of.is_some()),
            Bulk::Copy(..) => true,
        }
    }

    /// The types of an instruction's operands: destination, value or source, and length.
    fn parameters(&self, bulk: &Bulk) -> [ValType; 3] {
        match *bulk {
            Bulk::Fill(place) => {
                let (address, of) = (self.address(place), self.extent(place).and_then(|extent| extent.of));
                [address, of.unwrap_or(ValType::I32), address]
            }
            Bulk::Copy(to, from) => {
                let (to, from) = (self.address(to), self.address(from));
                [to, from, if to == ValType::I64 { from } else { to }]
            }
        }
    }

    /// The function that does in pieces what an instruction does.
    ///
    /// As long as more than a piece is left, and all that is left is within bounds, the next piece is written. Then
    /// the instruction itself does the rest. So an access out of bounds traps before anything is written.
    fn in_pieces(&self, bulk: &Bulk) -> Function {
        let [to, from, left] = self.parameters(bulk);
        let size = bulk.to().piece();
        let mut function = Function::new([(1, ValType::I64)]);
        let mut code = function.instructions();
        // Most write little, and do not enter the loop, which counts and looks at the clock where it begins.
        code.block(BlockType::Empty);
        get(&mut code, LEFT, left);
        code.i64_const(size.into()).i64_le_u().br_if(0).loop_(BlockType::Empty);
        self.leave_if_outside(&mut code, bulk.to(), (TO, to), left);
        if let Bulk::Copy(_, other) = *bulk {
            self.leave_if_outside(&mut code, other, (FROM, from), left);
        }
        // Two memories or tables of a module may be one that it imports twice.
        let may_be_one = matches!(*bulk, Bulk::Copy(_, Area::Memory(_) | Area::Table(_))) && to == from;
        if may_be_one {
            // The ranges may overlap: then the last piece is copied first.
            get(&mut code, TO, to);
            get(&mut code, FROM, from);
            code.i64_gt_u().if_(BlockType::Empty);
            for (place, ty) in [(TO, to), (FROM, from)] {
                code.local_get(place).local_get(LEFT);
                add(&mut code, ty);
                number(&mut code, size, ty);
                subtract(&mut code, ty);
            }
            number(&mut code, size, left);
            bulk.encode(&mut code);
            code.else_();
        }
        code.local_get(TO).local_get(FROM);
        number(&mut code, size, left);
        bulk.encode(&mut code);
        forward(&mut code, size, TO, to);
        if let Bulk::Copy(..) = bulk {
            forward(&mut code, size, FROM, from);
        }
        if may_be_one {
            code.end();
        }
        code.local_get(LEFT);
        number(&mut code, size, left);
        subtract(&mut code, left);
        code.local_set(LEFT);
        get(&mut code, LEFT, left);
        code.i64_const(size.into()).i64_gt_u().br_if(0).end().end();
        code.local_get(TO).local_get(FROM).local_get(LEFT);
        bulk.encode(&mut code);
        code.end();
        function
    }

    /// Leaves the loop unless all that is left fits in a place from this address on.
    fn leave_if_outside(&self, code: &mut InstructionSink<'_>, place: Area, address: (u32, ValType), left: ValType) {
        let segment = |sizes: &[u64], segment: u32| sizes.get(segment as usize).copied().unwrap_or(0).cast_signed();
        match place {
            Area::Memory(memory) => code.memory_size(memory),
            Area::Table(table) => code.table_size(table),
            Area::Data(data) => code.i64_const(segment(&self.data, data)),
            Area::Elements(elements) => code.i64_const(segment(&self.elements, elements)),
        };
        if let Some(extent) = self.extent(place) {
            if extent.address == ValType::I32 {
                code.i64_extend_i32_u();
            }
            code.i64_const(extent.unit_log2.into()).i64_shl();
        }
        leave_unless_within(code, address, left);
    }
}

impl Extent {
    fn of_memory(ty: &wasmparser::MemoryType) -> Self {
        let unit_log2 = ty.page_size_log2.unwrap_or(16);
        Self { address: address(ty.memory64), unit_log2, of: Some(ValType::I32) }
    }

    fn of_table(ty: &wasmparser::TableType) -> Self {
        let heap_type = match ty.element_type.heap_type() {
            wasmparser::HeapType::FUNC => Some(HeapType::FUNC),
            wasmparser::HeapType::EXTERN => Some(HeapType::EXTERN),
            // Types keep their numbers: others come behind them.
            wasmparser::HeapType::Concrete(UnpackedIndex::Module(index)) => Some(HeapType::Concrete(index)),
            _ => None,
        };
        let nullable = ty.element_type.is_nullable();
        let of = heap_type.map(|heap_type| ValType::Ref(RefType { nullable, heap_type }));
        Self { address: address(ty.table64), unit_log2: 0, of }
    }
}

fn address(wide: bool) -> ValType {
    if wide { ValType::I64 } else { ValType::I32 }
}

/// Leaves the loop unless all that is left, from this address on, lies below the bound on the stack.
fn leave_unless_within(code: &mut InstructionSink<'_>, (place, ty): (u32, ValType), left: ValType) {
    code.local_set(THERE);
    get(code, LEFT, left);
    code.local_get(THERE).i64_gt_u().br_if(1);
    get(code, place, ty);
    code.local_get(THERE);
    get(code, LEFT, left);
    code.i64_sub().i64_gt_u().br_if(1);
}

/// A local, as a number of 64 bits.
fn get(code: &mut InstructionSink<'_>, local: u32, ty: ValType) {
    code.local_get(local);
    if ty == ValType::I32 {
        code.i64_extend_i32_u();
    }
}

fn number(code: &mut InstructionSink<'_>, number: i32, ty: ValType) {
    if ty == ValType::I32 {
        code.i32_const(number)
    } else {
        code.i64_const(number.into())
    };
}

fn add(code: &mut InstructionSink<'_>, ty: ValType) {
    if ty == ValType::I32 {
        code.i32_add()
    } else {
        code.i64_add()
    };
}

fn subtract(code: &mut InstructionSink<'_>, ty: ValType) {
    if ty == ValType::I32 {
        code.i32_sub()
    } else {
        code.i64_sub()
    };
}

/// Moves a local behind a piece.
fn forward(code: &mut InstructionSink<'_>, size: i32, local: u32, ty: ValType) {
    code.local_get(local);
    number(code, size, ty);
    add(code, ty);
    code.local_set(local);
}

#[cfg(test)]
mod tests;
