//! runc's JSON log: its last error, as one sentence.

use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    /// What a program that stands in for runc says beside it.
    #[serde(default)]
    error: String,
}

/// The message of the last line of level error or fatal, without line breaks. Lines that are not JSON are skipped.
#[must_use]
pub fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let line = lines.into_iter().find(|line| matches!(line.level.as_str(), "error" | "fatal"))?;
    let said = [one_line(&line.msg), one_line(&line.error)];
    let said: Vec<String> = said.into_iter().filter(|part| !part.is_empty()).collect();
    (!said.is_empty()).then(|| said.join(": "))
}

/// Text without line breaks and doubled blanks.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_sentence() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n\
                   {\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"level\":\"error\",\"msg\":\"runc create failed:\\n unable to start\",\"time\":\"t\"}\n\
                   {\"level\":\"debug\",\"msg\":\"d\"}\nnot json\n";
        assert_eq!(last_error(log).as_deref(), Some("runc create failed: unable to start"));
        assert_eq!(last_error("{\"level\":\"info\",\"msg\":\"x\"}"), None);
        let fatal = "{\"level\":\"fatal\",\"msg\":\"no profile\",\"error\":\"no file\"}";
        assert_eq!(last_error(fatal).as_deref(), Some("no profile: no file"));
    }
}
