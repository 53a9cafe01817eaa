//! A kubelet's configuration as text: one setting of it. YAML as kubeadm and people write it (the setting on a line of its own at the
//! left edge), or JSON.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// The CRI proxy's socket, as the kubelet names it.
pub const OURS: &str = "unix:///run/godwit/cri.sock";
const KEY: &str = "containerRuntimeEndpoint";
const KIND: &str = "KubeletConfiguration";

/// A configuration that can be changed.
#[derive(Debug)]
pub enum Format<'a> {
    /// One document of lines.
    Yaml(&'a str),
    /// One object.
    Json(Value),
}

impl<'a> Format<'a> {
    /// Reads a text as far as it must be understood.
    ///
    /// # Errors
    /// It is no configuration of a kubelet, or one whose layout is not known.
    pub fn of(path: &Path, text: &'a str) -> Result<Self> {
        let refuse = |why: &str| {
            let ask = format!(
                "set {KEY} to {OURS} there by hand, or name a directory of drop-ins (--config-dir of the kubelet)"
            );
            Error::Refused(format!("{} {why}: {ask}", path.display()))
        };
        if text.trim_start().starts_with('{') {
            let value: Value = serde_json::from_str(text)
                .map_err(|why| refuse(&format!("cannot be read as JSON ({why})")))?;
            return match value.get("kind").and_then(Value::as_str) {
                Some(KIND) => Ok(Self::Json(value)),
                _ => Err(refuse("is no KubeletConfiguration")),
            };
        }
        let kinds = text.lines().filter(|line| scalar(line, "kind").as_deref() == Some(KIND));
        let named = text.lines().filter(|line| scalar(line, KEY).is_some());
        match (kinds.count(), named.count()) {
            (1, 0 | 1) => Ok(Self::Yaml(text)),
            (0, _) => Err(refuse("is no KubeletConfiguration with its settings at the left edge")),
            _ => Err(refuse("is not one document")),
        }
    }

    /// The endpoint that it says.
    ///
    /// # Errors
    /// It is no text.
    pub fn endpoint(&self) -> Result<Option<String>> {
        match self {
            Self::Yaml(text) => Ok(text.lines().find_map(|line| scalar(line, KEY))),
            Self::Json(value) => match value.get(KEY) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(other) => Err(Error::Refused(format!("{KEY} is {other}, and has to be text"))),
            },
        }
        .map(|said| said.filter(|text| !text.is_empty()))
    }

    fn with(self, endpoint: &str) -> String {
        match self {
            Self::Json(mut value) => {
                value[KEY] = endpoint.into();
                format!("{value:#}\n")
            }
            Self::Yaml(text) => {
                let ours = format!("{KEY}: {endpoint}");
                let has = text.lines().any(|line| scalar(line, KEY).is_some());
                let line = |line: &str| match (scalar(line, KEY), scalar(line, "kind")) {
                    (Some(_), _) => ours.clone(),
                    (None, Some(_)) if !has => format!("{line}\n{ours}"),
                    _ => line.to_owned(),
                };
                let lines: Vec<String> = text.lines().map(line).collect();
                lines.join("\n") + "\n"
            }
        }
    }
}

/// The endpoint that a configuration says.
///
/// # Errors
/// As [`Format::of`].
pub fn endpoint(path: &Path, text: &str) -> Result<Option<String>> {
    Format::of(path, text)?.endpoint()
}

/// A configuration with this endpoint; as it was if it says that already.
///
/// # Errors
/// As [`Format::of`].
pub fn with_endpoint(path: &Path, text: &str, endpoint: &str) -> Result<String> {
    let format = Format::of(path, text)?;
    match format.endpoint()?.as_deref() == Some(endpoint) {
        true => Ok(text.to_owned()),
        false => Ok(format.with(endpoint)),
    }
}

/// A drop-in that says ours and nothing else.
#[must_use]
pub fn drop_in() -> String {
    format!(
        "# Written by godwit-install: the kubelet goes through Godwit's CRI proxy.\n\
         apiVersion: kubelet.config.k8s.io/v1beta1\nkind: {KIND}\n{KEY}: {OURS}\n"
    )
}

/// The value of a key at the left edge, without quotes and comment.
fn scalar(line: &str, key: &str) -> Option<String> {
    let bare = |quote: char| line.strip_prefix(quote)?.strip_prefix(key)?.strip_prefix(quote);
    let rest = line.strip_prefix(key).or_else(|| bare('"')).or_else(|| bare('\''))?;
    let value = rest.trim_start().strip_prefix(':')?;
    if !value.is_empty() && !value.starts_with([' ', '\t']) {
        return None;
    }
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            return Some(inner.split(quote).next().unwrap_or_default().to_owned());
        }
    }
    let plain = if value.starts_with('#') { "" } else { value };
    Some(plain.split(" #").next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";
    const KUBEADM: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\n\
        cgroupDriver: systemd\ncontainerRuntimeEndpoint: \"\"\nkind: KubeletConfiguration\nmaxPods: 60 # few\n";

    fn path() -> &'static Path {
        Path::new("/var/lib/kubelet/config.yaml")
    }

    #[test]
    fn one_line_of_yaml_is_changed_and_no_other() {
        assert_eq!(endpoint(path(), KUBEADM).unwrap(), None);
        let ours = with_endpoint(path(), KUBEADM, OURS).unwrap();
        assert_eq!(endpoint(path(), &ours).unwrap().as_deref(), Some(OURS));
        let (before, after): (Vec<_>, Vec<_>) = (KUBEADM.lines().collect(), ours.lines().collect());
        assert_eq!(before.len(), after.len());
        assert_eq!(before.iter().zip(&after).filter(|(b, a)| b != a).count(), 1);
        assert_eq!(with_endpoint(path(), &ours, OURS).unwrap(), ours);
        let back = with_endpoint(path(), &ours, CONTAINERD).unwrap();
        assert_eq!(endpoint(path(), &back).unwrap().as_deref(), Some(CONTAINERD));
    }

    #[test]
    fn yaml_without_the_setting_gets_it_beside_its_kind() {
        let text = "---\nkind: KubeletConfiguration # v1\nmaxPods: 60\n...\n";
        let ours = with_endpoint(path(), text, OURS).unwrap();
        let line = format!("containerRuntimeEndpoint: {OURS}");
        assert_eq!(
            ours,
            format!("---\nkind: KubeletConfiguration # v1\n{line}\nmaxPods: 60\n...\n")
        );
    }

    #[test]
    fn quotes_and_comments_are_no_part_of_a_value() {
        for line in [
            "containerRuntimeEndpoint: unix:///a # why",
            "containerRuntimeEndpoint:   'unix:///a'",
            "\"containerRuntimeEndpoint\": \"unix:///a\" # why",
        ] {
            let text = format!("kind: \"KubeletConfiguration\"\n{line}\n");
            assert_eq!(endpoint(path(), &text).unwrap().as_deref(), Some("unix:///a"), "{line}");
        }
        let nothing = "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: # none\n";
        assert_eq!(endpoint(path(), nothing).unwrap(), None);
    }

    #[test]
    fn json_keeps_its_other_settings() {
        let text = r#"{"kind": "KubeletConfiguration", "maxPods": 60, "containerRuntimeEndpoint": "unix:///a"}"#;
        assert_eq!(endpoint(path(), text).unwrap().as_deref(), Some("unix:///a"));
        let ours: Value =
            serde_json::from_str(&with_endpoint(path(), text, OURS).unwrap()).unwrap();
        assert_eq!((&ours[KEY], &ours["maxPods"]), (&OURS.into(), &60.into()));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_to_do() {
        for text in [
            "",
            "kind: ClusterConfiguration\n",
            "  kind: KubeletConfiguration\n",
            "kind: KubeletConfiguration\n---\nkind: KubeletConfiguration\n",
            "{kind: KubeletConfiguration}",
            "{\"kind\": \"Pod\"}",
        ] {
            let error = endpoint(path(), text).unwrap_err().to_string();
            assert!(
                error.contains("config.yaml") && error.contains("by hand"),
                "{text:?}: {error}"
            );
        }
        assert!(endpoint(path(), &drop_in()).unwrap().as_deref() == Some(OURS));
    }
}
