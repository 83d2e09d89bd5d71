//! A function's access to the outside: the same user's other functions, the user's id, and the caller's stream.
//!
//! In a guest a [`Context`] stands for the host's imports and holds nothing. In a native unit test it holds the
//! test's stand-ins, so that a function that calls siblings can be tested without WebAssembly.

use crate::CallError;
use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::RefCell;
use serde::{Serialize, de::DeserializeOwned};

/// A stand-in for a sibling: maps input to output, both JSON text.
pub type Sibling = Box<dyn Fn(&str) -> Result<String, CallError>>;

/// A function's access to everything besides its own state.
#[derive(Default)]
pub struct Context {
    siblings: BTreeMap<String, Sibling>,
    #[cfg_attr(target_family = "wasm", allow(dead_code))]
    user_id: String,
    emitted: RefCell<Vec<String>>,
}

impl Context {
    pub(crate) const fn host() -> Self {
        Self { siblings: BTreeMap::new(), user_id: String::new(), emitted: RefCell::new(Vec::new()) }
    }

    /// A context for a native unit test: no siblings, the user id `test-user`.
    pub fn test() -> Self {
        Self { user_id: "test-user".into(), ..Self::default() }
    }

    /// For a native unit test: adds a sibling, for which `answer` stands in.
    pub fn with_function<I, O>(
        mut self,
        name: impl Into<String>,
        answer: impl Fn(I) -> Result<O, CallError> + 'static,
    ) -> Self
    where
        I: DeserializeOwned,
        O: Serialize,
    {
        let sibling: Sibling = Box::new(move |input| {
            let input = serde_json::from_str(input).map_err(|e| CallError::InvalidInput(e.to_string()))?;
            serde_json::to_string(&answer(input)?).map_err(|e| CallError::Json(e.to_string()))
        });
        self.siblings.insert(name.into(), sibling);
        self
    }

    /// For a native unit test: the chunks emitted so far, as JSON text, in order.
    pub fn emitted(&self) -> Vec<String> {
        self.emitted.borrow().clone()
    }

    /// Returns true if a function of that name is configured.
    pub fn exists(&self, name: &str) -> bool {
        #[cfg(target_family = "wasm")]
        return crate::bindings::functions::exists(name);
        #[cfg(not(target_family = "wasm"))]
        self.siblings.contains_key(name)
    }

    /// Calls another function of the same user, within what is left of this call's fuel and time.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. `?` turns it into an [`Error`](crate::Error), so that this call fails as well.
    pub fn call<O: DeserializeOwned>(&self, name: &str, input: &impl Serialize) -> Result<O, CallError> {
        let input = serde_json::to_string(input).map_err(|e| CallError::Json(format!("input of {name}: {e}")))?;
        let output = self.call_json(name, &input)?;
        serde_json::from_str(&output).map_err(|e| CallError::Json(format!("output of {name}: {e}")))
    }

    /// Calls another function of the same user with JSON text, and returns its answer as JSON text.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call_json(&self, name: &str, input: &str) -> Result<String, CallError> {
        #[cfg(target_family = "wasm")]
        return crate::bindings::functions::call(name, input).map_err(|error| CallError::of(name, error));
        #[cfg(not(target_family = "wasm"))]
        self.siblings.get(name).ok_or_else(|| CallError::Unknown(format!("no function is named {name}")))?(input)
    }

    /// An opaque id of the user, the same for each of their calls, safe to log.
    pub fn user_id(&self) -> String {
        #[cfg(target_family = "wasm")]
        return crate::bindings::session::user_id();
        #[cfg(not(target_family = "wasm"))]
        self.user_id.clone()
    }

    /// Sends a partial result to a caller of a streaming route, at once. On other routes it goes nowhere.
    ///
    /// # Errors
    ///
    /// The chunk could not be written as JSON.
    pub fn emit(&self, chunk: &impl Serialize) -> Result<(), crate::Error> {
        let chunk = serde_json::to_string(chunk).map_err(|e| crate::Error::failed(format!("emit: {e}")))?;
        #[cfg(target_family = "wasm")]
        crate::bindings::output::emit(&chunk);
        #[cfg(not(target_family = "wasm"))]
        self.emitted.borrow_mut().push(chunk);
        Ok(())
    }
}
