//! How the processes are confined: by the new spec's AppArmor profile or SELinux label, never by the checkpoint's.
//!
//! CRIU gives every process the profile that it is told; without one, that of the image. So the spec's is told
//! ([`Confinement`]), and where it names none, a checkpoint of confined processes is refused.

use oci_spec::runtime::{Process, Spec};

use super::Refusal;

/// What a spec says of confinement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// CRIU's option: `apparmor:NAME` or `selinux:LABEL`.
    pub profile: Option<String>,
    /// SELinux context of the mounts that CRIU makes.
    pub mount_context: Option<String>,
}

impl Confinement {
    /// Reads a spec. A node has one of both: a spec that names both is for AppArmor.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let named = |kind: &str, value: Option<&String>| {
            value.filter(|value| !value.is_empty()).map(|value| format!("{kind}:{value}"))
        };
        let apparmor =
            named("apparmor", process.and_then(|p| Process::apparmor_profile(p).as_ref()));
        let selinux = || named("selinux", process.and_then(|p| p.selinux_label().as_ref()));
        let context = spec.linux().as_ref().and_then(|linux| linux.mount_label().clone());
        Self {
            profile: apparmor.or_else(selinux),
            mount_context: context.filter(|context| !context.is_empty()),
        }
    }

    /// A thread with this profile or label in the checkpoint.
    pub(super) fn check(&self, pid: u32, profile: Option<&str>) -> Option<Refusal> {
        let confined = profile.filter(|profile| self.profile.is_none() && is_confined(profile))?;
        Some(Refusal::Confined { pid, profile: confined.to_owned() })
    }
}

/// `unconfined` of AppArmor; `system_u:system_r:unconfined_service_t:s0` of SELinux.
fn is_confined(profile: &str) -> bool {
    let unconfined = |word: &str| word == "unconfined" || word.starts_with("unconfined_");
    let domain = profile.split(':').nth(2).unwrap_or(profile);
    !profile.is_empty() && !unconfined(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(process: &str, linux: &str) -> Confinement {
        let json = format!(
            r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}}{process}}},"linux":{{{linux}}}}}"#
        );
        Confinement::of(&serde_json::from_str(&json).unwrap())
    }

    const LABEL: &str = "system_u:system_r:container_t:s0:c1,c2";

    #[test]
    fn the_new_specs_confinement_is_told_as_criu_spells_it() {
        assert_eq!(of("", ""), Confinement::default());
        assert_eq!(
            of(r#","apparmorProfile":"","selinuxLabel":"""#, r#""mountLabel":"""#),
            of("", "")
        );
        let apparmor = of(r#","apparmorProfile":"cri-containerd.apparmor.d""#, "");
        assert_eq!(apparmor.profile.as_deref(), Some("apparmor:cri-containerd.apparmor.d"));
        let selinux =
            of(&format!(r#","selinuxLabel":"{LABEL}""#), r#""mountLabel":"a:b:c_t:s0:c1,c2""#);
        assert_eq!(selinux.profile, Some(format!("selinux:{LABEL}")));
        assert_eq!(selinux.mount_context.as_deref(), Some("a:b:c_t:s0:c1,c2"));
    }

    #[test]
    fn the_confinement_of_a_checkpoint_is_replaced_or_refused_never_kept() {
        let (without, with) = (of("", ""), of(r#","apparmorProfile":"mine""#, ""));
        for profile in ["docker-default", LABEL] {
            let refusal = Refusal::Confined { pid: 7, profile: profile.to_owned() };
            assert_eq!(without.check(7, Some(profile)), Some(refusal));
            assert_eq!(with.check(7, Some(profile)), None);
        }
        let service = "system_u:system_r:unconfined_service_t:s0";
        for unconfined in [None, Some(""), Some("unconfined"), Some(service)] {
            assert_eq!(without.check(7, unconfined), None);
        }
    }
}
