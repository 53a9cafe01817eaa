//! What is printed: results on standard output, everything else on standard error.
//!
//! A reader that went away (`godwit show ID | head -1`) is no failure: nobody is left to be told, and the command does what it does.

use std::io::{self, Write};

use godwit_types::Code;
use godwit_wire::api::Failure;
use serde::Serialize;

use crate::failure;

/// Prints a result and ends its line.
///
/// # Errors
/// Standard output takes no more, and somebody would read it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), text)
}

/// Prints a result as JSON for programs.
///
/// # Errors
/// As [`print()`].
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value).map_err(failure::internal)?)
}

/// A line for the person who waits.
pub(crate) fn note(line: &str) {
    // There is no other place to say that it cannot be said.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn write(to: &mut impl Write, text: &str) -> Result<(), Failure> {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match to.write_all(format!("{text}{end}").as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let what = failure::new(Code::Internal, "the result could not be printed");
            Err(Failure { causes: vec![error.to_string()], ..what })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is_one() {
        assert_eq!(write(&mut Broken(io::ErrorKind::BrokenPipe), "x"), Ok(()));
        let full = write(&mut Broken(io::ErrorKind::StorageFull), "x");
        assert_eq!(full.map_err(|failure| failure.code), Err(Code::Internal));
    }

    #[test]
    fn every_result_ends_its_line_once() {
        for (text, written) in [("a", "a\n"), ("a\n", "a\n"), ("", "")] {
            let mut to = Vec::new();
            write(&mut to, text).unwrap();
            assert_eq!(String::from_utf8(to).unwrap(), written);
        }
    }
}
