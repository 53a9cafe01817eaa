//! What a run of Ginkgo says, test by test.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::conformance::{Outcome, Outcomes};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
}

/// Reads a report in JSON. What is neither passed nor skipped has failed.
pub(super) fn parse(text: &str) -> Result<Outcomes> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("read critest's report")?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default());
    Ok(specs
        .filter(|spec| spec.leaf_node_type == "It")
        .map(|spec| {
            let mut words = spec.container_hierarchy_texts.unwrap_or_default();
            words.push(spec.leaf_node_text);
            let outcome = match spec.state.as_str() {
                "passed" => Outcome::Pass,
                "skipped" | "pending" => Outcome::Skip,
                _ => Outcome::Fail,
            };
            (words.join(" "), outcome)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ginkgo_writes_is_read() {
        let text = r#"[{"SuitePath": "/x", "SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeType": "It", "LeafNodeText": "c", "State": "passed"},
            {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "d", "State": "timedout"},
            {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "e", "State": "skipped"}]}]"#;
        let all = parse(text).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all["[k8s.io] A b c"], Outcome::Pass);
        assert_eq!(all["[k8s.io] A d"], Outcome::Fail);
        assert_eq!(all["[k8s.io] A e"], Outcome::Skip);
        assert!(parse(r#"[{"SpecReports": null}]"#).unwrap().is_empty());
    }
}
