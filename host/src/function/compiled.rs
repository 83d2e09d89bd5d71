//! A compiled guest, as it is kept on disk: the whole guest, its shell, and what its examination has found.

use crate::state::{Examined, State, examine};
use serde::{Deserialize, Serialize};
use wasmtime::{Engine, component::Component};

/// A compiled guest.
pub(super) struct Compiled {
    /// The whole guest.
    pub(super) whole: Component,
    pub(super) shell: Option<Component>,
    /// The location of its state, or the reasons why that cannot be kept.
    pub(super) state: Result<State, Vec<String>>,
    /// True if the shell could not be compiled, for whatever reason: another start may have more luck.
    pub(super) lacks_shell: bool,
}

/// The part of a compiled guest that is no code, and the sizes of the code that follows it.
#[derive(Serialize, Deserialize)]
struct Head {
    state: Result<State, Vec<String>>,
    whole: usize,
    shell: Option<usize>,
}

impl Compiled {
    /// Examines and compiles a guest.
    ///
    /// # Errors
    ///
    /// wasmtime's, of a guest that is no valid component.
    pub(super) fn new(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        let Examined { wasm, shell, state } = examine(wasm);
        let compile_shell = || shell.map(|shell| Component::new(engine, shell));
        let (whole, shell) = rayon::join(|| Component::new(engine, wasm), compile_shell);
        let whole = whole?;
        Ok(match shell.transpose() {
            Ok(shell) => Self { whole, shell, state, lacks_shell: false },
            Err(error) => {
                let why = format!("it cannot be compiled without its start code: {:#}", error.root_cause());
                Self { whole, shell: None, state: Err(vec![why]), lacks_shell: true }
            }
        })
    }

    /// The bytes to be kept: the head's length in four bytes, the head, the whole guest's code and the shell's.
    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        let whole = self.whole.serialize()?;
        let shell = self.shell.as_ref().map(Component::serialize).transpose()?;
        let head = Head { state: self.state.clone(), whole: whole.len(), shell: shell.as_ref().map(Vec::len) };
        let head = serde_json::to_vec(&head)?;
        let mut bytes = u32::try_from(head.len())?.to_le_bytes().to_vec();
        bytes.extend([&*head, &whole, shell.as_deref().unwrap_or_default()].concat());
        Ok(bytes)
    }
}

/// A compiled guest in bytes that [`Compiled::serialize`] gave.
pub(super) struct Stored<'a> {
    pub(super) whole: &'a [u8],
    pub(super) shell: Option<&'a [u8]>,
    pub(super) state: Result<State, Vec<String>>,
}

impl<'a> Stored<'a> {
    /// Takes the bytes apart; `None` if they have another form.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (head, code) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let Head { state, whole, shell } = serde_json::from_slice(head).ok()?;
        let (whole, rest) = code.split_at_checked(whole)?;
        let shell = match shell {
            Some(length) if length == rest.len() => Some(rest),
            None if rest.is_empty() => None,
            _ => return None,
        };
        Some(Self { whole, shell, state })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stored(wasm: &str) -> Vec<u8> {
        let wasm = wat::parse_str(wasm).unwrap();
        let compiled = Compiled::new(&Engine::default(), &wasm).unwrap();
        assert!(!compiled.lacks_shell);
        compiled.serialize().unwrap()
    }

    #[test]
    fn what_is_stored_is_found_again_and_nothing_else_is_taken_for_it() {
        let with_shell = stored("(component (core module (memory 1) (data (i32.const 0) \"x\")))");
        let without = stored("(component (core module (memory 1)))");
        let hopeless = stored("(component (type (resource (rep i32))))");
        for (bytes, shell, has_state) in [(&with_shell, true, true), (&without, false, true), (&hopeless, false, false)]
        {
            let it = Stored::new(bytes).unwrap();
            assert_eq!((it.shell.is_some(), it.state.is_ok()), (shell, has_state));
            assert!(it.whole.starts_with(b"\x7fELF") && it.shell.is_none_or(|shell| shell.starts_with(b"\x7fELF")));
            for length in (0..200).chain([bytes.len() / 2, bytes.len() - 1]) {
                assert!(Stored::new(&bytes[..length]).is_none(), "{length} bytes");
            }
            assert!(Stored::new(&[bytes, &b"x"[..]].concat()).is_none());
            let mut longer = bytes.clone();
            longer[..4].fill(0xff);
            assert!(Stored::new(&longer).is_none());
        }
    }
}
