//! Rewrites modules, with more items in their sections or other instructions in their code, and components with such
//! modules.

use std::{borrow::Cow, ops::Range};
use wasm_encoder::Encode;
use wasmparser::{BinaryReader, CodeSectionReader, FunctionBody, Operator, Parser, Payload};

/// Adds those of these sections that a module lacks, empty and at their places.
pub(super) fn add_missing(sections: &mut Vec<(u8, Vec<u8>)>, ids: &[u8]) {
    // Sections come in this order; custom ones may be anywhere, and keep their places.
    let order = |id: u8| match id {
        0 => None,
        // Before the code.
        12 => Some(9.5),
        // The tag section is between memory and global.
        13 => Some(5.5),
        id => Some(f32::from(id)),
    };
    for id in ids {
        if !sections.iter().any(|(other, _)| other == id) {
            let after = |(other, _): &(u8, Vec<u8>)| order(*other).is_some_and(|other| other > f32::from(*id));
            let place = sections.iter().position(after).unwrap_or(sections.len());
            sections.insert(place, (*id, vec![0]));
        }
    }
}

/// A section's content with more items appended.
pub(super) fn longer(content: &[u8], more: &impl Encode, items: u32) -> wasmparser::Result<Vec<u8>> {
    let mut reader = BinaryReader::new(content, 0);
    let count = reader.read_var_u32()?;
    let mut out = Vec::new();
    (count + items).encode(&mut out);
    out.extend_from_slice(&content[reader.original_position()..]);
    let mut section = Vec::new();
    more.encode(&mut section);
    // A section is its size, the number of its items, and these.
    let mut reader = BinaryReader::new(&section, 0);
    reader.read_var_u32()?;
    reader.read_var_u32()?;
    out.extend_from_slice(&section[reader.original_position()..]);
    Ok(out)
}

/// The sections of a module: their numbers and contents.
pub(super) fn sections(wasm: &[u8]) -> wasmparser::Result<Vec<(u8, Vec<u8>)>> {
    let mut reader = BinaryReader::new(wasm, 0);
    reader.read_bytes(8)?;
    let mut sections = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()? as usize;
        sections.push((id, reader.read_bytes(size)?.to_vec()));
    }
    Ok(sections)
}

/// A code section with each function's body rewritten; they are numbered from 0 on.
pub(super) fn bodies(
    content: &[u8],
    mut rewrite: impl FnMut(usize, &FunctionBody<'_>) -> wasmparser::Result<Vec<u8>>,
) -> wasmparser::Result<Vec<u8>> {
    let bodies = CodeSectionReader::new(BinaryReader::new(content, 0))?;
    let mut out = Vec::with_capacity(content.len());
    bodies.count().encode(&mut out);
    for (index, body) in bodies.into_iter().enumerate() {
        rewrite(index, &body?)?.as_slice().encode(&mut out);
    }
    Ok(out)
}

/// Writes a function's instructions, except those for which `replace` returns true because it has written others.
pub(super) fn instructions(
    body: &FunctionBody<'_>,
    out: &mut Vec<u8>,
    mut replace: impl FnMut(&Operator<'_>, &mut Vec<u8>) -> bool,
) -> wasmparser::Result<()> {
    let (bytes, start) = (body.as_bytes(), body.range().start);
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let (operator, at) = reader.read_with_offset()?;
        if !replace(&operator, out) {
            out.extend_from_slice(&bytes[at - start..reader.original_position() - start]);
        }
    }
    Ok(())
}

/// A component with those core modules replaced for which `rewrite` returns another one.
pub(super) fn modules<'a>(
    wasm: &'a [u8],
    mut rewrite: impl FnMut(&'a [u8]) -> wasmparser::Result<Cow<'a, [u8]>>,
) -> wasmparser::Result<Cow<'a, [u8]>> {
    let mut replaced: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::ModuleSection { unchecked_range: range, .. } = payload?
            && let Some(module) = wasm.get(range.clone())
            && let Cow::Owned(other) = rewrite(module)?
        {
            replaced.push((range, other));
        }
    }
    let other = if replaced.is_empty() { None } else { replace(wasm, &replaced) };
    Ok(other.map_or(Cow::Borrowed(wasm), Cow::Owned))
}

/// A component with some of its core modules replaced, given in order. `None` if it cannot be read.
pub(super) fn replace(component: &[u8], modules: &[(Range<usize>, Vec<u8>)]) -> Option<Vec<u8>> {
    replace_within(component, 0, modules)
}

fn replace_within(bytes: &[u8], at: usize, modules: &[(Range<usize>, Vec<u8>)]) -> Option<Vec<u8>> {
    const CORE_MODULE: u8 = 1;
    const COMPONENT: u8 = 4;
    let mut out = bytes.get(..8)?.to_vec();
    let mut left = &bytes[8..];
    while let Some((&id, rest)) = left.split_first() {
        let mut reader = BinaryReader::new(rest, 0);
        let size = reader.read_var_u32().ok()? as usize;
        let head = reader.original_position();
        let content = rest.get(head..head.checked_add(size)?)?;
        let place = at + (bytes.len() - left.len()) + 1 + head;
        let replaced = match id {
            CORE_MODULE => {
                let found = modules.binary_search_by_key(&place, |(range, _)| range.start);
                found.ok().map(|found| Cow::Borrowed(modules[found].1.as_slice()))
            }
            COMPONENT => Some(Cow::Owned(replace_within(content, place, modules)?)),
            _ => None,
        };
        out.push(id);
        let content = replaced.as_deref().unwrap_or(content);
        content.encode(&mut out);
        left = &rest[head + size..];
    }
    Some(out)
}
