//! Which logical pod a pod is, whatever its uid: what lives on when it is made anew.
//!
//! Owns: the rule. It is read from the labels that the sandbox was made with, which Kubernetes' controllers write and the kubelet passes on, so that
//! no API server is asked and none need be there.
//!
//! | Labels | Lineage | Template |
//! |---|---|---|
//! | of a StatefulSet's pod | `sts/<name>.<ordinal>` | its revision |
//! | of an indexed Job's pod | `job/<name>.<index>` | the Job's uid |
//! | of any other owner's pod | `uid/<pod uid>`: each is another | its revision, or the hash of its template |
//! | none of these | `pod/<name>` | – |

use std::collections::HashMap;
use std::path::Path;

use godwit_types::{InvalidName, LineageName, Tenant, names};

use crate::containerd::{self, ContainerdError};

const STATEFUL_SET_POD: &str = "statefulset.kubernetes.io/pod-name";
const JOB: &str = "batch.kubernetes.io/job-name";
const JOB_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_INDEX: &str = "batch.kubernetes.io/job-completion-index";
const REVISION: &str = "controller-revision-hash";
const TEMPLATE: &str = "pod-template-hash";

/// Which logical pod it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Where all that is stored for it lies: its namespace.
    pub(crate) tenant: Tenant,
    /// The lineage that a pod made anew goes on with. `None`: nobody comes after this pod.
    pub(crate) stable: Option<LineageName>,
    /// The lineage of this pod alone.
    pub(crate) own: LineageName,
    /// What it was made from, where its owner tells.
    pub(crate) template: Option<String>,
}

impl Identity {
    /// That of the pod of a container with these annotations. `None`: it is of none that a kubelet has made.
    ///
    /// # Errors
    /// containerd does not know the sandbox, or its names cannot be names.
    pub(crate) async fn of<'a>(
        socket: &Path,
        namespace: &str,
        annotation: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Option<Self>, NoIdentity> {
        let pod = [names::SANDBOX_NAMESPACE, names::SANDBOX_NAME, names::SANDBOX_UID];
        let [Some(space), Some(name), Some(uid)] = pod.map(&annotation) else { return Ok(None) };
        let Some(sandbox) = annotation(names::SANDBOX_ID) else { return Ok(None) };
        let labels = containerd::labels_of(socket, namespace, sandbox).await?;
        Ok(Some(Self::by([space, name, uid], &labels)?))
    }

    /// That of the pod of this namespace, name and uid, by the labels of its sandbox.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub(crate) fn by(
        [namespace, name, uid]: [&str; 3],
        labels: &HashMap<String, String>,
    ) -> Result<Self, InvalidName> {
        let label = |name| labels.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let (stable, template) = match (label(STATEFUL_SET_POD), label(JOB), label(JOB_INDEX)) {
            (Some(pod), ..) => (pod.rsplit_once('-').map(of_set), label(REVISION)),
            (None, Some(job), Some(index)) => (Some(format!("job/{job}.{index}")), label(JOB_UID)),
            (None, Some(_), None) => (None, label(JOB_UID)),
            (None, None, _) => match label(TEMPLATE).or_else(|| label(REVISION)) {
                Some(template) => (None, Some(template)),
                None => (Some(format!("pod/{name}")), None),
            },
        };
        Ok(Self {
            tenant: Tenant::new(namespace)?,
            stable: stable.map(LineageName::new).transpose()?,
            own: LineageName::new(format!("uid/{uid}"))?,
            template: template.map(str::to_owned),
        })
    }
}

fn of_set((set, ordinal): (&str, &str)) -> String {
    format!("sts/{set}.{ordinal}")
}

/// Why a pod's identity is not known.
#[derive(Debug, thiserror::Error)]
pub enum NoIdentity {
    /// containerd does not tell.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// A name that no API server would take.
    #[error("the pod's names cannot be used")]
    Name(#[from] InvalidName),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str, labels: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let identity = Identity::by(["shop", name, "1-2"], &labels).unwrap();
        assert_eq!(identity.own.as_str(), "uid/1-2");
        assert_eq!(identity.tenant.as_str(), "shop");
        (identity.stable.map(|lineage| lineage.to_string()), identity.template)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_pod_of_a_set_is_its_ordinal_and_a_bare_one_its_name() {
        let set = [(STATEFUL_SET_POD, "my-db-12"), (REVISION, "my-db-5f")];
        assert_eq!(by("my-db-12", &set), (some("sts/my-db.12"), some("my-db-5f")));
        assert_eq!(by("web", &[("app", "web")]), (some("pod/web"), None));
        let indexed = [(JOB, "sum"), (JOB_UID, "7"), (JOB_INDEX, "3")];
        assert_eq!(by("sum-3-x8", &indexed), (some("job/sum.3"), some("7")));
    }

    #[test]
    fn replicas_are_each_another() {
        assert_eq!(by("web-6d-x8", &[(TEMPLATE, "6d")]), (None, some("6d")));
        assert_eq!(by("logs-x8", &[(REVISION, "6d")]), (None, some("6d")), "a daemon set");
        assert_eq!(by("sum-x8", &[(JOB, "sum"), (JOB_UID, "7")]), (None, some("7")));
    }

    #[test]
    fn names_that_could_leave_their_prefix_are_refused() {
        let labels = HashMap::from([(STATEFUL_SET_POD.to_owned(), "a/../b-1".to_owned())]);
        assert!(Identity::by(["shop", "x", "1"], &labels).is_err());
        assert!(Identity::by(["../x", "x", "1"], &HashMap::new()).is_err());
    }
}
