//! The network in which a container starts, where nobody of its pod runs: silent while a restore gives it the pod's connections, and
//! heard, whoever silenced it, before anybody runs in it.

use tracing::warn;

use crate::container::{Container, Origin};
use crate::error::Result;
use crate::network::{Network, OPENS, Silence, Silenced, Was};
use crate::pod::Pod;

/// A network that a start joins.
#[derive(Debug)]
pub struct Quiet {
    network: Network,
    silenced: Silenced,
    /// Its pod asks for its connections to others.
    keeps: bool,
    /// Before this start, as far as it was seen: what was not is left as it is.
    was: Was,
}

impl Quiet {
    /// That of this container, if it may be silent or is to be: this shim has silenced it, or the container is restored or asks for its
    /// connections. Any other is not even looked at.
    ///
    /// # Errors
    /// Its namespace cannot be opened.
    pub(crate) fn of(pod: &Pod, container: &Container) -> Result<Option<Self>> {
        let silenced = pod.silenced();
        let keeps = container.spec().keeps_connections();
        let asks = keeps || is_restored(container);
        if !asks && silenced.is_empty() {
            return Ok(None);
        }
        let network = Network::joined(container.spec())?;
        let network = network.filter(|network| asks || silenced.has(network));
        let (silenced, was) = (silenced.clone(), Was::Silent);
        Ok(network.map(|network| Self { network, silenced, keeps, was }))
    }

    /// Whether peers are waiting for its answers: then it is silent from the first moment on.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Before anything is restored.
    pub(super) async fn enter(&mut self) -> Result<()> {
        self.clear().await?;
        let silence = if self.keeps { Silence::Whole } else { Silence::Inward };
        match self.was {
            Was::Heard => self.silenced.silence(&self.network, silence).await,
            Was::Silent => Ok(()),
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
        // Whatever was seen: what another shim has silenced inwards is not seen from outside.
        self.silenced.open_all(std::slice::from_ref(&self.network), OPENS).await
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
        for asks in [KEEPS, GOES_ON] {
            Quiet::of(&pod(), &of("c", &joins(asks))).unwrap_err();
        }
    }

    #[tokio::test]
    async fn who_begins_anew_is_heard_whatever_its_annotations_say_by_now() {
        let (space, pod) = (Space::new(), pod());
        pod.silenced().silence(&space.network, Silence::Whole).await.unwrap();
        let mut plain = quiet(&pod, &space.spec("")).unwrap();
        plain.clear().await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Silent);
        plain.be_heard().await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Heard);
        assert!(pod.silenced().is_empty());

        // By another shim, which is gone.
        pod.silenced().silence(&space.network, Silence::Whole).await.unwrap();
        let later = async || {
            let mut later = quiet(&self::pod(), &space.spec(GOES_ON)).unwrap();
            later.clear().await.unwrap();
            later.be_heard().await.unwrap();
        };
        later().await;
        assert_eq!(space.network.was().await.unwrap(), Was::Heard);
        pod.silenced().silence(&space.network, Silence::Inward).await.unwrap();
        later().await;
        assert!(space.comes_to_hear_itself("127.0.0.1"));
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
            pod.silenced().silence(&space.network, Silence::Whole).await.unwrap();
        }
        // One that does not ask for its connections changes nothing before its tasks run.
        let mut attempt = quiet(&pod, &space.spec(GOES_ON)).unwrap();
        attempt.enter().await.unwrap();
        attempt.leave().await;
        assert_eq!(space.network.was().await.unwrap(), Was::Silent);
    }

    #[tokio::test]
    async fn a_pod_does_not_hear_itself_while_it_is_restored() {
        let (space, pod) = (Space::new(), pod());
        let comes_to_hear_itself = || space.comes_to_hear_itself("127.0.0.1");
        let mut attempt = quiet(&pod, &space.spec(GOES_ON)).unwrap();
        attempt.enter().await.unwrap();
        assert!(!space.hears_itself("127.0.0.1"));
        attempt.leave().await;
        assert!(comes_to_hear_itself(), "nothing was restored");
        // The first of two whose sockets are there opens it for both.
        let mut both = [0, 1].map(|_| quiet(&pod, &space.spec(GOES_ON)).unwrap());
        for attempt in &mut both {
            attempt.enter().await.unwrap();
        }
        both[0].be_heard().await.unwrap();
        assert!(comes_to_hear_itself() && pod.silenced().is_empty());
        both[1].be_heard().await.unwrap();
        assert!(comes_to_hear_itself());
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
        pod.silenced().silence(&space.network, Silence::Whole).await.unwrap();
        enter(KEEPS).await;
        assert_eq!(space.connections(), 1);
    }
}
