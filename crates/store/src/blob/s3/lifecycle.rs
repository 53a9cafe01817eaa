//! A bucket that deletes objects by itself is no store: a log that lost entries would let two copies run.

use super::S3Store;
use super::answer::meaning;
use crate::error::StoreError;
use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, LifecycleRuleFilter};

impl S3Store {
    /// Refuses a bucket with a lifecycle rule that would expire objects of ours. A server that has no such rules, or does
    /// not let us read them, is believed.
    ///
    /// # Errors
    /// [`StoreError::Unsound`] with the rule's name.
    pub async fn refuse_expiry(&self) -> Result<(), StoreError> {
        let request = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket);
        let rules = match request.send().await {
            Ok(answer) => answer.rules.unwrap_or_default(),
            Err(e) => {
                let why = format!("{:?}", meaning(e));
                tracing::debug!(store = self.name, why, "no lifecycle rules can be read");
                return Ok(());
            }
        };
        match rules.iter().find(|rule| expires(rule, &self.prefix)) {
            None => Ok(()),
            Some(rule) => Err(StoreError::Unsound {
                store: self.name.clone(),
                reason: format!(
                    "lifecycle rule {:?} of the bucket deletes objects by age; Godwit collects its garbage itself: \
                     remove the rule or limit it to other prefixes",
                    rule.id().unwrap_or("without a name")
                ),
            }),
        }
    }
}

/// Whether a rule deletes current objects under `prefix`. Ours carry no tags.
fn expires(rule: &LifecycleRule, prefix: &str) -> bool {
    let meant = match rule.filter() {
        Some(filter) if needs_tag(filter) => false,
        Some(filter) => overlap(prefix_of(filter), prefix),
        #[allow(deprecated)]
        None => overlap(rule.prefix().unwrap_or_default(), prefix),
    };
    *rule.status() == ExpirationStatus::Enabled && rule.expiration().is_some() && meant
}

fn needs_tag(filter: &LifecycleRuleFilter) -> bool {
    filter.tag().is_some() || filter.and().is_some_and(|and| !and.tags().is_empty())
}

fn prefix_of(filter: &LifecycleRuleFilter) -> &str {
    filter.prefix().or(filter.and().and_then(|and| and.prefix())).unwrap_or_default()
}

/// Whether some object can be under both.
fn overlap(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::{LifecycleExpiration, Tag};

    fn rule(filter: LifecycleRuleFilter) -> LifecycleRule {
        LifecycleRule::builder()
            .status(ExpirationStatus::Enabled)
            .filter(filter)
            .expiration(LifecycleExpiration::builder().days(7).build())
            .build()
            .unwrap()
    }

    #[test]
    fn a_rule_that_would_delete_ours_is_found() {
        let by_prefix = |p: &str| rule(LifecycleRuleFilter::builder().prefix(p).build());
        assert!(expires(&by_prefix(""), "team/"));
        assert!(expires(&by_prefix("team/"), "team/"));
        assert!(expires(&by_prefix("team/t/"), "team/"), "only a part of ours");
        assert!(!expires(&by_prefix("logs/"), "team/"));
        let tag = Tag::builder().key("k").value("v").build().unwrap();
        assert!(!expires(&rule(LifecycleRuleFilter::builder().tag(tag).build()), "team/"));
        let mut off = by_prefix("");
        off.status = ExpirationStatus::Disabled;
        assert!(!expires(&off, "team/"));
    }
}
