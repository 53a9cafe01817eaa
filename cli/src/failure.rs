//! Failures as they are shown and as exit codes.

use std::process::ExitCode;

use godwit_types::Code;
use godwit_wire::api::Failure;

use crate::args::Output;
use crate::out;

/// A failure with a sentence.
pub(crate) fn new(code: Code, message: &str) -> Failure {
    Failure { code, message: message.to_owned(), causes: Vec::new() }
}

/// A failure that nobody foresaw.
pub(crate) fn internal(error: impl std::error::Error) -> Failure {
    of(Code::Internal, &error)
}

/// A failure with its chain of causes.
pub(crate) fn of(code: Code, error: &dyn std::error::Error) -> Failure {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string);
    Failure { code, message: error.to_string(), causes: causes.collect() }
}

/// Prints a failure on standard error and gives its exit code.
pub(crate) fn report(failure: &Failure, output: Output) -> ExitCode {
    match output {
        Output::Json => {
            let text = serde_json::to_string(failure).unwrap_or_else(|_| failure.message.clone());
            out::note(&text);
        }
        Output::Table => {
            out::note(&format!("godwit: {}", failure.message));
            for cause in &failure.causes {
                out::note(&format!("  because: {cause}"));
            }
        }
    }
    ExitCode::from(failure.code.exit_code())
}
