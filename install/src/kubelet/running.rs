//! The kubelet that runs, and what its command line says.

use std::fs;

use godwit_criu::unix_sockets;

/// A process of the name `kubelet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    pid: u32,
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
        let pid = dir.file_name()?.to_str()?.parse().ok()?;
        Some(Self::of(pid, &String::from_utf8_lossy(&line)))
    }

    /// One with this command line, words ended by zero bytes.
    #[must_use]
    pub fn of(pid: u32, line: &str) -> Self {
        Self { pid, words: line.split_terminator('\0').map(str::to_owned).collect() }
    }

    /// Whether it is connected to who listens at this path; nothing where the kernel does not tell.
    #[must_use]
    pub fn is_connected(&self, path: &str) -> Option<bool> {
        unix_sockets::is_connected(self.pid, path)
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
        let kubelet = Kubelet::of(1, "/usr/bin/kubelet\0--config\0/a\0--v=2\0-config=/b\0");
        assert_eq!(kubelet.flag("config"), Some("/b"));
        assert_eq!(kubelet.flag("v"), Some("2"));
        assert_eq!(kubelet.flag("container-runtime-endpoint"), None);
        assert_eq!(Kubelet::of(1, "kubelet\0--config\0/a\0").flag("config"), Some("/a"));
    }
}
