//! Progress: a bar on a terminal, plain lines otherwise (one for each phase, and for each tenth of its bytes), nothing with JSON
//! output.

use std::io::IsTerminal;

use godwit_types::{Bytes, Phase};
use godwit_wire::api::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Output;
use crate::out;

const BYTES: &str =
    "{msg:10} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {elapsed:>4}";
const SPINNER: &str = "{msg:10} {spinner} {elapsed:>4}";

/// What the person sees while waiting.
pub(crate) struct Shown(How);

enum How {
    Bar(ProgressBar),
    Lines(Lines),
    Silent,
}

impl Shown {
    /// Chooses by the output format and by whether standard error is a terminal.
    pub(crate) fn new(output: Output) -> Self {
        Self(match output {
            Output::Json => How::Silent,
            Output::Table if std::io::stderr().is_terminal() => {
                How::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
            }
            Output::Table => How::Lines(Lines::default()),
        })
    }

    /// Shows how far the request is.
    pub(crate) fn update(&mut self, progress: Progress) {
        match &mut self.0 {
            How::Silent => {}
            How::Lines(lines) => lines.next(progress).iter().for_each(|line| out::note(line)),
            How::Bar(bar) => draw(bar, progress),
        }
    }
}

/// What must not stay on the terminal goes.
impl Drop for Shown {
    fn drop(&mut self) {
        if let How::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// What was said already.
#[derive(Debug, Default)]
struct Lines {
    phase: Option<Phase>,
    tenths: u64,
}

impl Lines {
    fn next(&mut self, progress: Progress) -> Option<String> {
        let Progress { phase, done, total } = progress;
        if self.phase != Some(phase) {
            *self = Self { phase: Some(phase), tenths: 0 };
            return Some(phase.to_string());
        }
        let tenths = done.saturating_mul(10).checked_div(total).unwrap_or(0);
        if tenths <= self.tenths {
            return None;
        }
        self.tenths = tenths;
        Some(format!("{phase}: {} of {}", Bytes(done), Bytes(total)))
    }
}

fn draw(bar: &ProgressBar, progress: Progress) {
    let template = if progress.total > 0 { BYTES } else { SPINNER };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(progress.phase.name());
    bar.set_length(progress.total);
    bar.set_position(progress.done);
    bar.tick();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_phase_and_for_each_tenth() {
        let mut lines = Lines::default();
        let mut next = |phase, done, total| lines.next(Progress { phase, done, total });
        assert_eq!(next(Phase::Verify, 0, 0).as_deref(), Some("verify"));
        assert_eq!(next(Phase::Verify, 0, 0), None);
        assert_eq!(next(Phase::Verify, 9 << 20, 100 << 20), None);
        let tenth = next(Phase::Verify, 10 << 20, 100 << 20).unwrap();
        assert!(tenth.starts_with("verify: 10") && tenth.contains(" of 100"), "{tenth}");
        assert_eq!(next(Phase::Verify, 19 << 20, 100 << 20), None);
        assert!(next(Phase::Verify, 100 << 20, 100 << 20).is_some());
        assert_eq!(next(Phase::Collect, 0, 0).as_deref(), Some("collect"));
    }
}
