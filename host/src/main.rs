//! The binary `carrel`: see [`carrel::cli`].

fn main() -> std::process::ExitCode {
    carrel::cli::main()
}
