//! The network in which a container starts, where nobody of its pod runs: silent while a restore may give it the pod's connections, and
//! heard, whoever silenced it, before anybody runs in it.

use tracing::warn;

use crate::container::{Container, Origin};
use crate::error::Result;
use crate::network::{Network, OPENS, Silenced, Was};
use crate::pod::Pod;

/// A network that a start joins.
#[derive(Debug)]
pub struct Quiet {
    network: Network,
    silenced: Silenced,
    /// Its pod asks for its connections.
    keeps: bool,
    /// Before this start, as far as it was seen: what was not is left as it is.
    was: Was,
}

impl Quiet {
    /// That of this container, if it may be silent or is to be: this shim has silenced it; the container asks for its connections; or it
    /// is restored into a namespace that somebody made by hand, where one that did may have been before. Any other is not even looked at.
    ///
    /// # Errors
    /// Its namespace cannot be opened.
    pub(crate) fn of(pod: &Pod, container: &Container) -> Result<Option<Self>> {
        let silenced = pod.silenced();
        let keeps = container.spec().keeps_connections();
        let asks = keeps || is_restored(container) && !pod.has_sandbox();
        if !asks && silenced.is_empty() {
            return Ok(None);
        }
        let network = Network::joined(container.spec())?;
        let network = network.filter(|network| asks || silenced.has(network));
        let (silenced, was) = (silenced.clone(), Was::Silent);
        Ok(network.map(|network| Self { network, silenced, keeps, was }))
    }

    /// Before anything is restored.
    pub(super) async fn enter(&mut self) -> Result<()> {
        self.clear().await?;
        match (self.was, self.keeps) {
            (Was::Heard, true) => self.silenced.silence(&self.network).await,
            _ => Ok(()),
        }
    }

    /// What is left of an earlier life that died in silence is forgotten.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        let may_be_silent = self.keeps || self.silenced.has(&self.network);
        self.was = match self.network.was().await {
            Err(why) if !may_be_silent => {
                warn!(why = why.chain(), "whether a network is silent cannot be told");
                Was::Heard
            }
            seen => seen?,
        };
        match self.was {
            Was::Silent => self.network.forget_former().await,
            Was::Heard => Ok(()),
        }
    }

    /// Before the tasks run.
    pub(crate) async fn be_heard(&self) -> Result<()> {
        match self.was == Was::Silent || self.silenced.has(&self.network) {
            true => self.silenced.open_all(std::slice::from_ref(&self.network), OPENS).await,
            false => Ok(()),
        }
    }

    /// Nothing was restored: it is as it was before, for the next try or for whoever else is in it.
    pub(super) async fn leave(&self) {
        if self.was == Was::Silent {
            return;
        }
        if let Err(why) = self.be_heard().await {
            warn!(why = why.chain(), "a network stays silent after a restore that failed");
        }
    }
}

fn is_restored(container: &Container) -> bool {
    matches!(container.origin(), Origin::Restore { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::of;
    use crate::network::tests::Space;
    use crate::pod::tests::pod_of;
    use std::sync::Arc;

    const KEEPS: &str = r#""godwit.dev/tcp":"keep""#;
    const GOES_ON: &str = r#""godwit.dev/restore-from":"X""#;

    fn quiet(pod: &Pod, spec: &str) -> Option<Quiet> {
        Quiet::of(pod, &of("c", spec)).unwrap()
    }

    fn pod() -> Arc<Pod> {
        pod_of(&of("c", "{}"))
    }

    #[tokio::test]
    async fn the_network_of_who_asks_for_nothing_is_not_even_opened() {
        let joins = |annotations: &str| {
            let path = r#"{"type":"network","path":"/nowhere"}"#;
            format!(r#"{{"annotations":{{{annotations}}},"linux":{{"namespaces":[{path}]}}}}"#)
        };
        assert!(quiet(&pod(), &joins("")).is_none());
        let sandbox = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox"}}"#;
        let in_sandbox = pod_of(&of("pause", sandbox));
        assert!(quiet(&in_sandbox, &joins(GOES_ON)).is_none());
        for asks in [KEEPS, GOES_ON] {
            Quiet::of(&pod(), &of("c", &joins(asks))).unwrap_err();
        }
    }

    #[tokio::test]
    async fn who_begins_anew_is_heard_whatever_its_annotations_say_by_now() {
        let (space, pod) = (Space::new(), pod());
        pod.silenced().silence(&space.network).await.unwrap();
        let mut plain = quiet(&pod, &space.spec("")).unwrap();
        plain.clear().await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Silent);
        plain.be_heard().await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Heard);
        assert!(pod.silenced().is_empty());

        // By another shim, which is gone.
        pod.silenced().silence(&space.network).await.unwrap();
        let mut later = quiet(&self::pod(), &space.spec(GOES_ON)).unwrap();
        later.clear().await.unwrap();
        later.be_heard().await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Heard);
    }

    #[tokio::test]
    async fn an_attempt_that_fails_leaves_a_network_as_it_was() {
        let (space, pod) = (Space::new(), pod());
        for was in [Was::Heard, Was::Silent] {
            let mut attempt = quiet(&pod, &space.spec(KEEPS)).unwrap();
            attempt.enter().await.unwrap();
            assert_eq!(space.network.was().await.unwrap(), Was::Silent);
            attempt.leave().await;
            assert_eq!(space.network.was().await.unwrap(), was);
            pod.silenced().silence(&space.network).await.unwrap();
        }
        // One that does not ask for its connections changes nothing before its tasks run.
        let mut attempt = quiet(&pod, &space.spec(GOES_ON)).unwrap();
        attempt.enter().await.unwrap();
        attempt.leave().await;
        assert_eq!(space.network.was().await.unwrap(), Was::Silent);
    }

    #[tokio::test]
    async fn only_what_died_in_silence_is_forgotten() {
        let (space, pod) = (Space::new(), pod());
        let (ended, _reads) = space.pair();
        drop(ended);
        let enter = async |annotations| {
            let mut attempt = quiet(&pod, &space.spec(annotations)).unwrap();
            attempt.enter().await.unwrap();
            attempt
        };
        let first = enter(KEEPS).await;
        assert_eq!(space.connections(), 2, "whoever ended it may still be heard");
        first.be_heard().await.unwrap();
        pod.silenced().silence(&space.network).await.unwrap();
        enter(KEEPS).await;
        assert_eq!(space.connections(), 1);
    }
}
