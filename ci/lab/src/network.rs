//! The lab's network: one bridge on the host, a /24 of its own, and a cable to each node's network namespace.
//!
//! The bridge is the claim on the address range: making it fails when another lab has it. Its alias names the lab.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::Deserialize;

use crate::command::{host, run};
use crate::error::{LabError, Result};

/// Host part of the S3 server's address.
pub(crate) const S3_HOST: u8 = 2;

/// The network of one lab: 10.88.N.0/24.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    number: u8,
}

/// What lies behind a machine of the lab.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// The addresses, as `10.112.1.0/24`.
    pub(crate) to: String,
    /// Host part of the machine.
    pub(crate) host_part: u8,
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    ifalias: String,
}

impl Network {
    /// The network of the lab whose state is in `state`, if it has one.
    pub(crate) fn find(state: &Path) -> Result<Option<Self>> {
        let text = run(&mut host(&["ip", "-json", "link", "show", "type", "bridge"]))?;
        let links: Vec<Link> = serde_json::from_str(text.trim()).unwrap_or_default();
        let ours = links.iter().find(|link| Path::new(&link.ifalias) == state);
        Ok(ours
            .and_then(|link| link.ifname.strip_prefix("gwbr")?.parse().ok())
            .map(|number| Self { number }))
    }

    /// The network of this lab; makes one on the first free number.
    pub(crate) fn claim(state: &Path) -> Result<Self> {
        if let Some(found) = Self::find(state)? {
            return Ok(found);
        }
        let mut last = LabError::Refused("all 256 networks of labs are taken".to_owned());
        for number in 0..=u8::MAX {
            let network = Self { number };
            match run(&mut host(&["ip", "link", "add", &network.bridge(), "type", "bridge"])) {
                Ok(_) => return network.configure(state),
                Err(error) if error.to_string().contains("File exists") => {}
                Err(error) => {
                    last = error;
                    break;
                }
            }
        }
        Err(last)
    }

    fn configure(self, state: &Path) -> Result<Self> {
        let (bridge, alias) = (self.bridge(), state.display().to_string());
        let address = format!("{}/24", self.host());
        run(&mut host(&["ip", "link", "set", "dev", &bridge, "alias", &alias]))?;
        run(&mut host(&["ip", "addr", "replace", &address, "dev", &bridge]))?;
        run(&mut host(&["ip", "link", "set", "dev", &bridge, "up"]))?;
        Ok(self)
    }

    /// Removes the bridge.
    pub(crate) fn remove(self) -> Result<()> {
        run(&mut host(&["ip", "link", "del", &self.bridge()])).map(drop)
    }

    /// Its number among the labs of this machine.
    pub(crate) fn number(self) -> u8 {
        self.number
    }

    #[cfg(test)]
    pub(crate) fn of_number(number: u8) -> Self {
        Self { number }
    }

    fn bridge(self) -> String {
        format!("gwbr{}", self.number)
    }

    fn cable(self, name: &str) -> String {
        format!("gw{}-{name}", self.number)
    }

    pub(crate) fn address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, self.number, host)
    }

    /// The host's own address on the bridge.
    pub(crate) fn host(self) -> Ipv4Addr {
        self.address(1)
    }

    /// Lays the cable into the network namespace of `pid` and gives it its address there, as `eth0`.
    /// The hardware address follows from the address, so that neighbours find a rebooted node at once.
    pub(crate) fn plug(self, pid: u32, name: &str, host_part: u8) -> Result<()> {
        let (cable, pid) = (self.cable(name), pid.to_string());
        self.unplug(name);
        run(&mut host(&[
            "ip",
            "link",
            "add",
            &cable,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            &format!("02:88:00:00:{:02x}:{host_part:02x}", self.number),
            "netns",
            &pid,
        ]))?;
        run(&mut host(&["ip", "link", "set", "dev", &cable, "master", &self.bridge(), "up"]))?;
        let inside = format!(
            "ip link set lo up && ip addr add {}/24 dev eth0 && ip link set eth0 up && ip route add default via {}",
            self.address(host_part),
            self.host(),
        );
        run(&mut host(&["nsenter", "--net", "--target", &pid, "sh", "-c", &inside])).map(drop)
    }

    /// Tells the network namespace of `pid` the way to what lies behind machines of the lab.
    pub(crate) fn add_routes(self, pid: u32, routes: &[Route]) -> Result<()> {
        let lines: Vec<String> = routes.iter().map(|route| self.replace(route)).collect();
        let inside = lines.join(" && ");
        run(&mut host(&["nsenter", "--net", "--target", &pid.to_string(), "sh", "-c", &inside]))
            .map(drop)
    }

    /// Tells the host; the way goes with the bridge.
    pub(crate) fn add_routes_of_host(self, routes: &[Route]) -> Result<()> {
        let lines: Vec<String> = routes.iter().map(|route| self.replace(route)).collect();
        run(&mut host(&["sh", "-c", &lines.join(" && ")])).map(drop)
    }

    fn replace(self, route: &Route) -> String {
        format!("ip route replace {} via {}", route.to, self.address(route.host_part))
    }

    /// Takes the cable out of the bridge's end, or puts it back; what is configured inside the node stays.
    pub(crate) fn connect(self, name: &str, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        run(&mut host(&["ip", "link", "set", "dev", &self.cable(name), state])).map(drop)
    }

    /// Cuts the cable: nothing that the node sends after this arrives, no farewell of its connections either.
    pub(crate) fn unplug(self, name: &str) {
        // That it is not there is what the caller wants.
        let _ = run(&mut host(&["ip", "link", "del", &self.cable(name)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cables_fit_into_the_kernels_fifteen_bytes() {
        let network = Network { number: 255 };
        assert!(network.cable("12345678").len() <= 15);
        assert_eq!(network.address(S3_HOST).to_string(), "10.88.255.2");
    }
}
