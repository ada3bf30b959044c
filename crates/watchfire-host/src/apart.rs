//! Compiling in a process of its own: it can be paused ([`crate::pace`]), a bug of the compiler that a module meets ends
//! nothing else, and the memory that it took (a gigabyte for a runtime such as Python's) goes back with it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::Pid;
use wasmtime::Engine;

use crate::engine::{Mode, config};
use crate::pace::{Over, pace};

/// The first argument that the program gets; the second is the mode.
const COMMAND: &str = "compile-module";
/// The code of a process that says why a module cannot be compiled.
const REFUSED: u8 = 1;
/// Of the thread that compiles. Cranelift recurses over what it compiles: four times the default.
pub(crate) const STACK: usize = 8 << 20;

/// Why there is no code.
#[derive(Debug)]
pub(crate) enum ApartError {
    /// The program could not be run: the module was not looked at.
    NotRun(io::Error),
    /// The module cannot be compiled, and why.
    Refused(String),
}

/// This program, to be named as [`crate::HostOptions::compiler`] by one whose first argument `compile-module` calls
/// [`compile_module`]. It is the file that runs, even if another was put in its place since.
pub fn this_program() -> Option<PathBuf> {
    if cfg!(target_os = "linux") { Some("/proc/self/exe".into()) } else { std::env::current_exe().ok() }
}

/// The compiled code of a module. Blocks.
pub(crate) fn compile(program: &Path, mode: Mode, module: &[u8]) -> Result<Vec<u8>, ApartError> {
    let mut child = Command::new(program)
        .args([COMMAND, mode.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // An interrupt at the terminal is meant for the engine, which comes to its end in order.
        .process_group(0)
        .spawn()
        .map_err(ApartError::NotRun)?;
    let answer = converse(&mut child, module);
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(ApartError::NotRun)?;
    let answer = answer.map_err(ApartError::NotRun)?;
    match status.code() {
        Some(0) => Ok(answer),
        Some(code) if code == i32::from(REFUSED) => {
            Err(ApartError::Refused(String::from_utf8_lossy(&answer).into_owned()))
        }
        _ => Err(ApartError::Refused(format!("the compiler ended with {status}: please report this module"))),
    }
}

/// Gives a child the module, and takes what it says.
fn converse(child: &mut Child, module: &[u8]) -> io::Result<Vec<u8>> {
    let id = Pid::from_child(child);
    let missing = || io::Error::other("a pipe is missing");
    let (mut input, mut output) =
        (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
    let over = Over::default();
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    std::thread::scope(|scope| {
        // One that takes less than all of it says why by itself.
        thread("rule-module").spawn_scoped(scope, move || drop(input.write_all(module)))?;
        let pacing = thread("rule-pace").spawn_scoped(scope, || pace(id, &over));
        let mut answer = Vec::new();
        let read = pacing.and_then(|_| output.read_to_end(&mut answer));
        over.set();
        read.map(|_| answer)
    })
}

/// What a compiler does in its process: takes a module from its input, and gives its code, or with the exit code 1 the
/// reason why there is none.
pub fn compile_module(mode: &str) -> ExitCode {
    // It may be stopped when the engine is killed, and would stay so.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let answer = Mode::named(mode).ok_or_else(|| format!("there is no mode {mode:?}")).and_then(|mode| {
        let compiling = std::thread::Builder::new().stack_size(STACK).spawn(move || from_input(mode));
        let joined = compiling.map_err(|error| error.to_string())?.join();
        joined.unwrap_or_else(|_| Err(FAILED.into()))
    });
    let (bytes, code) = match answer {
        Ok(code) => (code, ExitCode::SUCCESS),
        Err(text) => (text.into_bytes(), ExitCode::from(REFUSED)),
    };
    // Nobody is left who would take it.
    if io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()).is_err() {
        return ExitCode::FAILURE;
    }
    code
}

/// What a bug of the compiler is told as.
pub(crate) const FAILED: &str = "the compiler failed on it: please report this module";

fn from_input(mode: Mode) -> Result<Vec<u8>, String> {
    let mut module = Vec::new();
    io::stdin().read_to_end(&mut module).map_err(|error| format!("the module does not come: {error}"))?;
    let engine = Engine::new(&config(mode)).map_err(|error| format!("{error:#}"))?;
    engine.precompile_component(&module).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_compiler_says_is_told() {
        let folder = tempfile::tempdir().unwrap();
        // More than a pipe holds, both ways.
        let module = vec![7; 1 << 20];
        let path = folder.path().join("compiler");
        let ask = |script: &str| {
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            loop {
                match compile(&path, Mode::Fuel, &module) {
                    // A child that another test starts just now still has it open for writing.
                    Err(ApartError::NotRun(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                    answer => return answer,
                }
            }
        };
        assert_eq!(ask("cat").unwrap(), module);
        assert_eq!(ask("cat > /dev/null; echo \"$1 $2\"").unwrap(), b"compile-module fuel\n");
        for (script, said) in [
            ("cat > /dev/null; echo no such thing; exit 1", "no such thing\n"),
            ("echo too early; exit 1", "too early\n"),
            ("kill -9 $$", "the compiler ended with signal: 9 (SIGKILL): please report this module"),
            ("exit 101", "the compiler ended with exit status: 101: please report this module"),
        ] {
            match ask(script) {
                Err(ApartError::Refused(text)) => assert_eq!(text, said),
                other => panic!("{script}: {other:?}"),
            }
        }
        let missing = compile(&folder.path().join("missing"), Mode::Plain, &module);
        assert!(matches!(missing, Err(ApartError::NotRun(error)) if error.kind() == io::ErrorKind::NotFound));
    }
}
