//! What the author of a Carrel function depends on.
//!
//! A function is a struct that holds one user's state. Carrel makes one for each user, in a sandbox of its own, and
//! calls it with JSON; this crate turns that into types.
//!
//! ```
//! use carrel_guest::{Context, Error, Function};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! /// Greets, and remembers how often.
//! struct Greeter {
//!     greeting: String,
//!     greeted: u32,
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Config {
//!     /// What to say.
//!     greeting: String,
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Input {
//!     /// Whom to greet.
//!     name: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Output {
//!     text: String,
//!     greeted: u32,
//! }
//!
//! impl Function for Greeter {
//!     const NAME: &'static str = "greeter";
//!     const SUMMARY: &'static str = "Greets, and remembers how often.";
//!     type Config = Config;
//!     type Input = Input;
//!     type Output = Output;
//!
//!     fn new(config: Config, _cx: &Context) -> Result<Self, Error> {
//!         Ok(Self { greeting: config.greeting, greeted: 0 })
//!     }
//!
//!     fn call(&mut self, input: Input, _cx: &Context) -> Result<Output, Error> {
//!         if input.name.is_empty() {
//!             return Err(Error::failed("nobody to greet"));
//!         }
//!         self.greeted += 1;
//!         Ok(Output { text: format!("{}, {}!", self.greeting, input.name), greeted: self.greeted })
//!     }
//! }
//!
//! carrel_guest::export!(Greeter);
//!
//! // The struct is plain Rust, so a unit test needs no WebAssembly:
//! let mut greeter = Greeter::new(Config { greeting: "Hello".into() }, &Context::test()).unwrap();
//! let output = greeter.call(Input { name: "Ada".into() }, &Context::test()).unwrap();
//! assert_eq!(output.text, "Hello, Ada!");
//! ```
//!
//! # Layout
//!
//! * [`Function`]: the trait that an author implements; [`export!`] makes a component of it.
//! * [`Context`]: the same user's other functions, the user's id, partial results.
//! * [`Error`], [`CallError`]: what a call and a sibling call can fail with.
//! * [`FunctionName`]: a configuration's reference to another function.

mod context;
mod error;
mod function;
mod name;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod glue;

pub use context::{Context, Sibling};
pub use error::{CallError, Error};
pub use function::Function;
pub use name::FunctionName;

pub use indexmap::{self, IndexMap};
pub use schemars;
pub use serde;
pub use serde_json;

/// Makes a component of a [`Function`]: `carrel_guest::export!(Notepad);`, once in a crate.
///
/// On a target other than WebAssembly it expands to nothing that runs, so that the crate's unit tests build natively.
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        #[cfg(target_family = "wasm")]
        mod __carrel_guest_export {
            use super::*;

            struct Component;

            ::std::thread_local! {
                static INSTANCE: $crate::glue::Slot<$function> = const { $crate::glue::Slot::empty() };
            }

            impl $crate::bindings::Guest for Component {
                fn describe() -> $crate::bindings::Description {
                    $crate::glue::describe::<$function>().into()
                }

                fn configure(config: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    INSTANCE.with(|slot| $crate::glue::configure(slot, &config))
                }

                fn call(
                    input: ::std::string::String,
                ) -> ::std::result::Result<::std::string::String, $crate::bindings::Error> {
                    INSTANCE.with(|slot| $crate::glue::call(slot, &input)).map_err(::std::convert::Into::into)
                }
            }

            $crate::bindings::export!(Component with_types_in $crate::bindings);
        }

        const _: fn() = || {
            fn is_a_function<F: $crate::Function>() {}
            is_a_function::<$function>();
        };
    };
}
