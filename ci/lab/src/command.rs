//! Running host programs and telling well what failed. Knows nothing of nodes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::error::{LabError, Result};

/// How much of a failed program's output an error carries.
const OUTPUT_SHOWN: usize = 4096;

/// Runs to the end; the output is captured. A failure of the program is an [`Output`], not an error.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.map_err(|source| not_started(command, source))
}

/// Runs to the end and returns standard output; any end but success is an error with what was printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    finished(command, &output)
}

/// The same for a program that reads this from its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = piped.spawn().and_then(|mut child| {
        let pipe = child.stdin.take();
        std::thread::scope(|scope| {
            // One that ends without having read all says itself why.
            scope.spawn(move || pipe.map(|mut pipe| pipe.write_all(input.as_bytes())));
            child.wait_with_output()
        })
    });
    let output = output.map_err(|source| not_started(command, source))?;
    finished(command, &output)
}

/// Runs to the end with the caller's standard error, for long steps that show their progress.
pub(crate) fn run_shown(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|source| not_started(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(LabError::Failed { what: describe(command), status, output: "see above".to_owned() })
}

fn not_started(command: &Command, source: std::io::Error) -> LabError {
    LabError::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

fn finished(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Failed {
        what: describe(command),
        status: output.status,
        output: printed(output),
    })
}

/// A program by its words: `host(&["ip", "link"])`.
pub(crate) fn host(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"false", &[]));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A copy of a program without what debuggers want. Whoever runs an earlier copy goes on with that.
pub(crate) fn strip(program: &Path, to: &Path) -> Result<()> {
    let half = to.with_extension(std::process::id().to_string());
    let mut strip = host(&["strip", "--strip-debug", "-o"]);
    run(strip.arg(&half).arg(program))?;
    std::fs::rename(&half, to).map_err(LabError::io("renaming", &half))
}

/// The last lines of standard error and output together.
pub(crate) fn printed(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    tail(text.trim(), OUTPUT_SHOWN).to_owned()
}

/// The last `most` bytes of a text, cut at a character.
pub(crate) fn tail(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    tail(&words.join(" "), 300).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = run(&mut host(&["sh", "-c", "echo no such luck >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no such luck"), "{error}");
        assert!(error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_tail_is_cut_between_characters() {
        assert_eq!(tail("aéb", 2), "b");
        assert_eq!(tail("aéb", 3), "éb");
    }
}
