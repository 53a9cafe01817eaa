//! Progress: a bar on a terminal, a plain line per phase otherwise, nothing with JSON output.

use std::io::IsTerminal;

use godwit_types::Phase;
use godwit_wire::api::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Output;

const BYTES: &str =
    "{msg:10} {bar:30} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {elapsed:>4}";
const SPINNER: &str = "{msg:10} {spinner} {elapsed:>4}";

/// What the person sees while waiting.
pub(crate) struct Shown {
    how: How,
    phase: Option<Phase>,
}

enum How {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Shown {
    /// Chooses by the output format and by whether standard error is a terminal.
    pub(crate) fn new(output: Output) -> Self {
        let how = match output {
            Output::Json => How::Silent,
            Output::Table if std::io::stderr().is_terminal() => {
                How::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
            }
            Output::Table => How::Lines,
        };
        Self { how, phase: None }
    }

    /// Shows how far the request is.
    pub(crate) fn update(&mut self, progress: Progress) {
        let begins = self.phase.replace(progress.phase) != Some(progress.phase);
        match &self.how {
            How::Silent => {}
            How::Lines if begins => eprintln!("{}", progress.phase),
            How::Lines => {}
            How::Bar(bar) => draw(bar, progress),
        }
    }

    /// Removes what must not stay on the terminal.
    pub(crate) fn finish(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
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
