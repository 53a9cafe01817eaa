//! The kubelet that runs, and what its command line says.

use std::fs;

/// A process of the name `kubelet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    words: Vec<String>,
}

impl Kubelet {
    /// Looks for one.
    #[must_use]
    pub fn find() -> Option<Self> {
        let entries = fs::read_dir("/proc").ok()?.flatten();
        // One in a container is another node's.
        let own = fs::read_link("/proc/self/ns/pid").ok()?;
        let is_kubelet = |dir: &std::path::Path| {
            fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim_end() == "kubelet")
                && fs::read_link(dir.join("ns/pid")).is_ok_and(|namespace| namespace == own)
        };
        let dir = entries.map(|entry| entry.path()).find(|dir| is_kubelet(dir))?;
        let line = fs::read(dir.join("cmdline")).ok()?;
        Some(Self::of(&String::from_utf8_lossy(&line)))
    }

    /// One with this command line, words ended by zero bytes.
    #[must_use]
    pub fn of(line: &str) -> Self {
        Self { words: line.split_terminator('\0').map(str::to_owned).collect() }
    }

    /// The last value of a flag, as `--flag=value` or `--flag value`.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&str> {
        let words = self.words.iter().enumerate().rev();
        words.filter_map(|(at, word)| self.value(at, word, name)).next()
    }

    fn value(&self, at: usize, word: &str, name: &str) -> Option<&str> {
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        match flag.split_once('=') {
            Some((flag, _)) if flag == name => self.words.get(at)?.split_once('=').map(|(_, v)| v),
            None if flag == name => self.words.get(at + 1).map(String::as_str),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_flag_counts() {
        let kubelet = Kubelet::of("/usr/bin/kubelet\0--config\0/a\0--v=2\0-config=/b\0");
        assert_eq!(kubelet.flag("config"), Some("/b"));
        assert_eq!(kubelet.flag("v"), Some("2"));
        assert_eq!(kubelet.flag("container-runtime-endpoint"), None);
        assert_eq!(Kubelet::of("kubelet\0--config\0/a\0").flag("config"), Some("/a"));
    }
}
