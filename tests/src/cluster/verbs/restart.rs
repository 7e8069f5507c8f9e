//! `restart`: of one process, or of a role, one after the other.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::{STORES, words};
use crate::cluster::launch;
use crate::cluster::sample::role;
use crate::cluster::screen::Steps;
use crate::cluster::state::{Place, State};
use crate::cluster::stores::Node;

/// How long a process has for ending by itself, while others take over what it has.
const END: Duration = Duration::from_secs(40);
/// How long a process that was started again is left alone before the next one of its role goes, as `minReadySeconds` of Kubernetes:
/// a message-svc has its part of the chats again 4 to 5 s after it has come.
const SETTLES: Duration = Duration::from_secs(6);

/// Ends the named ones if they run, and starts them again, one after the other. A role's name means all of that role.
///
/// # Errors
/// If there is no cluster, none of a name, or one doesn't get ready.
pub async fn restart(place: &Place, names: &[String]) -> anyhow::Result<()> {
    let _lock = place.lock()?;
    let mut state = place.load()?.context(words::NONE)?;
    let nodes: Vec<Node> = STORES.iter().flat_map(|store| store.nodes()).collect();
    let all = state.members.iter().map(|member| (member.launch.name.clone(), role(member).to_owned()));
    let all: Vec<(String, String)> =
        all.chain(nodes.iter().map(|node| (node.name(), node.store.name().to_owned()))).collect();
    let steps = Steps::default();
    let (names, mut last) = (chosen(names, &all)?, None);
    for name in names {
        let role = all.iter().find(|(one, _)| *one == name).map(|(_, role)| role);
        if role.is_some() && role == last {
            sleep(SETTLES).await;
        }
        last = role;
        if let Some(node) = nodes.iter().find(|node| node.name() == name) {
            steps.step(&format!("{name} is started again"), node.restart(place)).await?;
        } else if let Some(at) = state.members.iter().position(|member| member.launch.name == name) {
            steps.step(&format!("{name} is started again"), restart_member(place, &mut state, at)).await?;
        }
    }
    Ok(())
}

async fn restart_member(place: &Place, state: &mut State, at: usize) -> anyhow::Result<()> {
    let launch = state.members[at].launch.clone();
    if let Some(id) = state.members[at].id {
        launch::end(&[id], END, std::future::pending()).await?;
    }
    let id = launch::start(place, &launch)?;
    state.members[at].id = Some(id);
    place.save(state)?;
    launch::wait_ready(place, &launch, id).await
}

/// The names that are meant, each once, in the order given. `all`: names, and what each of them is one of.
fn chosen(names: &[String], all: &[(String, String)]) -> anyhow::Result<Vec<String>> {
    let mut chosen: Vec<String> = Vec::new();
    for name in names {
        let meant: Vec<&String> =
            all.iter().filter(|(one, role)| one == name || role == name).map(|(one, _)| one).collect();
        if meant.is_empty() {
            let names: Vec<&str> = all.iter().map(|(one, _)| one.as_str()).collect();
            bail!("there is no {name:?}; there are {}, and all of a role by its name, such as edge", names.join(", "));
        }
        for name in meant {
            if !chosen.contains(name) {
                chosen.push(name.clone());
            }
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_means_one_and_a_role_all_of_it() {
        let all = [("edge-0", "edge"), ("edge-1", "edge"), ("nginx", "nginx"), ("redis-0", "redis")];
        let all = all.map(|(name, role)| (name.to_owned(), role.to_owned()));
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            super::chosen(&names, &all)
        };
        assert_eq!(chosen(&["redis-0", "edge"]).unwrap(), ["redis-0", "edge-0", "edge-1"]);
        assert_eq!(chosen(&["edge-1", "edge", "nginx"]).unwrap(), ["edge-1", "edge-0", "nginx"]);
        let words = chosen(&["edge-0", "edge-2"]).unwrap_err().to_string();
        assert!(words.starts_with("there is no \"edge-2\"; there are edge-0, edge-1, nginx, redis-0"), "{words}");
    }
}
