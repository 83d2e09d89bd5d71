//! What Carrel does, behaviour by behaviour.

mod isolation;
