//! The SDK for authors of Carrel functions.
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
//! * [`Error`], [`CallError`]: the errors of a call and of a sibling call.
//! * [`FunctionName`]: a configuration's reference to another function.
//! * [`log!`](crate::log!): lines of the host's log.
//! * [`to_lowercase`]: for smaller guests.
//!
//! # Without the standard library
//!
//! With `default-features = false` a guest can be `no_std`: it then has `core` and `alloc`, and an allocator and a panic
//! handler from here. It cannot print, but has [`log!`](crate::log!), a panic leaves no text in the log, and it is a good
//! deal smaller.
#![cfg_attr(all(target_family = "wasm", not(feature = "std")), no_std)]

extern crate alloc;

#[cfg(all(target_family = "wasm", not(feature = "std")))]
mod bare;
mod context;
mod error;
mod function;
mod log;
mod lowercase;
mod name;
mod stop;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod glue;

pub use context::{Context, Sibling};
pub use error::{CallError, Error};
pub use function::Function;
pub use log::{Level, log};
pub use lowercase::to_lowercase;
pub use name::FunctionName;
pub use stop::Stop;

#[doc(hidden)]
pub use alloc::{format, string::String};
#[cfg(feature = "std")]
pub use indexmap::IndexMap;
/// A map that keeps its order. Make an empty one with `default()`, or one from pairs with `collect()`.
///
/// Without the standard library there are no random seeds for its hashes.
#[cfg(not(feature = "std"))]
#[allow(deprecated)] // in favour of the standard library's
pub type IndexMap<K, V, S = core::hash::BuildHasherDefault<core::hash::SipHasher>> = indexmap::IndexMap<K, V, S>;

pub use indexmap;
pub use schemars;
pub use serde;
pub use serde_json;

/// Makes a component of a [`Function`]: `carrel_guest::export!(Notepad);`, once in a crate.
///
/// On a target other than WebAssembly the macro expands to nothing that runs, so that the crate's unit tests build
/// natively.
///
/// The macro also gives the guest a custom section, `carrel:dead-stack`, which tells the host that the stack holds
/// nothing between calls. In Rust that is so: no reference to a function's variables outlives the function. The host
/// then neither compares nor keeps the bytes below the stack pointer, so that a call that changes little costs
/// little.
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        #[cfg(target_family = "wasm")]
        mod __carrel_guest_export {
            use super::*;

            struct Component;

            static INSTANCE: $crate::glue::Slot<$function> = $crate::glue::Slot::empty();

            impl $crate::bindings::Guest for Component {
                fn describe() -> $crate::bindings::Description {
                    $crate::glue::describe::<$function>().into()
                }

                fn configure(config: $crate::String) -> ::core::result::Result<(), $crate::String> {
                    $crate::glue::configure(&INSTANCE, &config)
                }

                fn call(input: $crate::String) -> ::core::result::Result<$crate::String, $crate::bindings::Error> {
                    $crate::glue::call(&INSTANCE, &input).map_err(::core::convert::Into::into)
                }
            }

            $crate::bindings::export!(Component with_types_in $crate::bindings);

            #[unsafe(link_section = "carrel:dead-stack")]
            #[used]
            static DEAD_STACK: [u8; 1] = [1];
        }

        const _: fn() = || {
            fn is_a_function<F: $crate::Function>() {}
            is_a_function::<$function>();
        };
    };
}
