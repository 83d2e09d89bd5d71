//! Between the component's JSON and the author's types. Used by [`export!`](crate::export), not by authors.
//!
//! Plain functions rather than code in the macro, so that they are compiled, linted and tested here.

use crate::{Context, Error, Function};
use alloc::{
    format,
    string::{String, ToString},
};
use core::cell::RefCell;
use schemars::{Schema, generate::SchemaSettings};
use serde::de::DeserializeOwned;

/// The instance's state: nothing until it is configured.
pub struct Slot<F>(RefCell<Option<F>>);

impl<F> Slot<F> {
    /// Makes an empty slot, as before `configure`.
    pub const fn empty() -> Self {
        Self(RefCell::new(None))
    }
}

// SAFETY: a component's instance has one thread, so that nothing is shared. Where there are more, this is not compiled.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
#[allow(unsafe_code)]
unsafe impl<F> Sync for Slot<F> {}

/// The answer of `describe`, before it becomes the contract's record.
pub struct Description {
    /// `_type`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// JSON Schema of the configuration.
    pub config_schema: String,
    /// JSON Schema of the input.
    pub input_schema: String,
    /// JSON Schema of the output.
    pub output_schema: String,
}

/// Describes a function by its types.
pub fn describe<F: Function>() -> Description {
    let settings = SchemaSettings::draft2020_12;
    Description {
        name: F::NAME,
        summary: F::SUMMARY,
        config_schema: text(settings().into_generator().into_root_schema_for::<F::Config>()),
        input_schema: text(settings().into_generator().into_root_schema_for::<F::Input>()),
        output_schema: text(settings().for_serialize().into_generator().into_root_schema_for::<F::Output>()),
    }
}

/// Writes a schema with the outputs' serializer: `Display` would add another one to each guest.
fn text(schema: Schema) -> String {
    serde_json::to_string(schema.as_value()).unwrap_or_default()
}

/// Makes the state from the configuration.
///
/// # Errors
///
/// The configuration does not have the author's type, or the author refuses it.
pub fn configure<F: Function>(slot: &Slot<F>, config: &str) -> Result<(), String> {
    let config = from_json::<F::Config>(config).map_err(|e| e.to_string())?;
    let function = F::new(config, &Context::host()).map_err(|e| e.to_string())?;
    *slot.0.borrow_mut() = Some(function);
    Ok(())
}

/// Answers one call, from JSON to JSON.
///
/// # Errors
///
/// The input does not have the author's type, the author refuses it, or the output cannot be written as JSON.
pub fn call<F: Function>(slot: &Slot<F>, input: &str) -> Result<String, Error> {
    let mut function = slot.0.borrow_mut();
    let function = function.as_mut().ok_or_else(|| Error::failed("called before it was configured"))?;
    let input = from_json(input).map_err(|e| Error::invalid_input(e.to_string()))?;
    let output = function.call(input, &Context::host())?;
    serde_json::to_string(&output).map_err(|e| Error::failed(format!("output: {e}")))
}

/// Parses JSON. If an object has a name twice, the last one counts, as in Python and JavaScript; derived types refuse
/// such objects, so these are read a second time through a map.
fn from_json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| {
        let value: serde_json::Value = serde_json::from_str(text)?;
        T::deserialize(value).map_err(|_| error)
    })
}

#[cfg(target_family = "wasm")]
mod contract {
    use super::Description;
    use crate::{CallError, Error, Stop, bindings};
    use alloc::string::String;

    impl From<Description> for bindings::Description {
        fn from(it: Description) -> Self {
            Self {
                name: it.name.into(),
                summary: it.summary.into(),
                config_schema: it.config_schema,
                input_schema: it.input_schema,
                output_schema: it.output_schema,
            }
        }
    }

    impl From<Error> for bindings::Error {
        fn from(error: Error) -> Self {
            match error {
                Error::InvalidInput(why) => Self::InvalidInput(why),
                Error::Failed(why) => Self::Failed(why),
                // One that the host does not know any more still says why.
                Error::Stopped(stop) => {
                    stop.number.map(bindings::stops::pass_on);
                    Self::Failed(stop.text)
                }
            }
        }
    }

    impl Stop {
        /// The stop that the newest call of a sibling ended with, given the host's text.
        fn last(function: &str, text: String) -> Self {
            match bindings::stops::last() {
                Some(bindings::stops::Stop { number, code, function, setting, text }) => {
                    Self { code, function, setting, text, number: Some(number) }
                }
                // Outside of a call there are no numbers.
                None => Self::of(function, text),
            }
        }
    }

    impl CallError {
        /// The error of a sibling's call that has just ended.
        pub(crate) fn of(function: &str, error: bindings::functions::CallError) -> Self {
            use bindings::functions::CallError as Host;
            match error {
                Host::Unknown(why) => Self::Unknown(why),
                Host::Cycle(why) => Self::Cycle(why),
                Host::InvalidInput(why) => Self::InvalidInput(why),
                Host::Failed(why) => Self::Failed(why),
                Host::Stopped(why) => Self::Stopped(Stop::last(function, why)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IndexMap;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    struct Echo(String);

    #[derive(Deserialize, JsonSchema)]
    struct Config {
        prefix: String,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Input {
        text: String,
        #[serde(default)]
        extra: IndexMap<String, String>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Output {
        text: String,
        extra: IndexMap<String, String>,
    }

    impl Function for Echo {
        const NAME: &'static str = "echo";
        type Config = Config;
        type Input = Input;
        type Output = Output;

        fn new(config: Config, _: &Context) -> Result<Self, Error> {
            Ok(Self(config.prefix))
        }

        fn call(&mut self, input: Input, _: &Context) -> Result<Output, Error> {
            Ok(Output { text: format!("{}{}", self.0, input.text), extra: input.extra })
        }
    }

    fn echo() -> Slot<Echo> {
        let slot = Slot::empty();
        configure(&slot, r#"{"prefix":">"}"#).unwrap();
        slot
    }

    #[test]
    fn fields_keep_their_order_and_the_last_of_two_equal_names_counts() {
        let input = r#"{"text":"a","text":"b","extra":{"z":"1","a":"2"},"unknown":[1]}"#;
        assert_eq!(call(&echo(), input).unwrap(), r#"{"text":">b","extra":{"z":"1","a":"2"}}"#);
    }

    #[test]
    fn an_input_of_another_shape_is_invalid() {
        for input in ["", "{", "{}", "[]", r#"{"text":1}"#, r#"{"text":"\ud800"}"#] {
            assert!(matches!(call(&echo(), input), Err(Error::InvalidInput(_))), "{input}");
        }
    }

    #[test]
    fn a_call_before_configure_fails_and_a_wrong_config_is_told() {
        let slot: Slot<Echo> = Slot::empty();
        assert!(matches!(call(&slot, "{}"), Err(Error::Failed(_))));
        assert!(configure(&slot, "{}").unwrap_err().contains("prefix"));
    }

    #[test]
    fn the_schemas_are_of_the_authors_types() {
        let described = describe::<Echo>();
        let schema: serde_json::Value = serde_json::from_str(&described.input_schema).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["text"]));
        assert_eq!(schema["title"], "Input");
    }
}
