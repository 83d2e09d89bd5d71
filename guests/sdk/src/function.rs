//! The trait that an author implements.

use crate::{Context, Error};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// A function's state for one user, and its answers to calls.
///
/// A type that should take no configuration uses `()` as [`Function::Config`].
pub trait Function: Sized + 'static {
    /// The name that a configuration gives as `_type`: lower-case letters, digits and underscores, a letter first.
    const NAME: &'static str;
    /// The function's purpose, in a sentence, for readers of the API's description.
    const SUMMARY: &'static str = "";
    /// The function's own keys in the configuration. Its schema is what the host checks the file against.
    type Config: DeserializeOwned + JsonSchema;
    /// The JSON that a caller sends. The host names each field that does not fit the schema.
    type Input: DeserializeOwned + JsonSchema;
    /// The JSON that a caller gets, its fields in the order of the struct.
    type Output: Serialize + JsonSchema;

    /// Makes the state of a user who has none yet.
    ///
    /// # Errors
    ///
    /// A text for the operator. The host makes one instance when it starts, and does not start if that fails.
    fn new(config: Self::Config, cx: &Context) -> Result<Self, Error>;

    /// Answers one call. Calls of one user never overlap.
    ///
    /// # Errors
    ///
    /// [`Error::invalid_input`] for an input that passes the schema and still makes no sense, [`Error::failed`] for
    /// the rest. State that was changed before the error stays changed.
    fn call(&mut self, input: Self::Input, cx: &Context) -> Result<Self::Output, Error>;
}
