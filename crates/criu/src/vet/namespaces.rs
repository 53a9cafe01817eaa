//! All processes live in the container's namespaces: no user, mount, pid, network namespace of their own.

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::images::{Inventory, TaskKobjIds};

use super::Refusal;
use crate::Error;
use crate::images::ImageDir;
use crate::images::tasks::{self, Task};

pub(super) fn check(images: &ImageDir, tasks: &[Task]) -> Result<Vec<Refusal>, Error> {
    let name = "inventory.img";
    let inventory: Inventory = images.read(Kind::Inventory, name)?.decode_one(name)?;
    let outside = inventory.root_ids.ok_or_else(|| Error::image(name, "has no ids"))?;
    let mut refusals = Vec::new();
    let mut init: Option<TaskKobjIds> = None;
    for task in tasks.iter().filter(|t| !t.zombie) {
        let ids = ids_of(images, task.vpid)?;
        if ids.user_ns_id != outside.user_ns_id {
            refusals.push(Refusal::Namespace { pid: task.vpid, kind: "user" });
        }
        let init = init.get_or_insert(ids);
        let foreign = kinds(&ids).zip(kinds(init)).filter(|(mine, inits)| mine != inits);
        refusals.extend(foreign.map(|((kind, _), _)| Refusal::Namespace { pid: task.vpid, kind }));
    }
    Ok(refusals)
}

/// The ids stand in the core record, or in a file of their own.
fn ids_of(images: &ImageDir, pid: u32) -> Result<TaskKobjIds, Error> {
    let name = format!("ids-{pid}.img");
    if let Some(file) = images.read_if_there(Kind::Ids, &name)? {
        return Ok(file.decode_one(&name)?);
    }
    let core = tasks::core(images, pid)?;
    core.ids.ok_or_else(|| Error::image(format!("core-{pid}.img"), "has no ids"))
}

fn kinds(ids: &TaskKobjIds) -> impl Iterator<Item = (&'static str, Option<u32>)> + use<> {
    [
        ("pid", ids.pid_ns_id),
        ("net", ids.net_ns_id),
        ("ipc", ids.ipc_ns_id),
        ("uts", ids.uts_ns_id),
        ("mnt", ids.mnt_ns_id),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tasks::tests::{sample, write};

    fn ids(user: u32, mnt: u32) -> TaskKobjIds {
        TaskKobjIds {
            user_ns_id: Some(user),
            mnt_ns_id: Some(mnt),
            net_ns_id: Some(3),
            ..TaskKobjIds::default()
        }
    }

    fn of(user: u32) -> Vec<Refusal> {
        let (_dir, images) = sample();
        let inventory =
            Inventory { img_version: 2, root_ids: Some(ids(1, 9)), ..Inventory::default() };
        write(&images, Kind::Inventory, "inventory.img", &[inventory]);
        write(&images, Kind::Ids, "ids-1.img", &[ids(user, 2)]);
        let tasks = tasks::read(&images).unwrap();
        check(&images, &tasks).unwrap()
    }

    #[test]
    fn a_user_namespace_of_its_own_is_refused_and_the_containers_namespaces_pass() {
        assert_eq!(of(1), []);
        assert_eq!(of(7), [Refusal::Namespace { pid: 1, kind: "user" }]);
    }
}
