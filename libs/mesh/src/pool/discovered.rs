//! The task that keeps a pool as discovery and the connections say.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{Notify, watch};

use super::{Member, Members};
use crate::{ConnectConfig, Discovery, Endpoint, connect::Instance};

pub(super) struct Discovered {
    discovery: Discovery,
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    cfg: Arc<ConnectConfig>,
    /// By id. Bounded as what discovery tells is.
    instances: BTreeMap<Arc<str>, Instance>,
    changed: Arc<Notify>,
}

impl Discovered {
    pub(super) fn new(discovery: Discovery, cfg: ConnectConfig) -> Self {
        let endpoints = discovery.endpoints();
        let cfg = Arc::new(cfg);
        Self { discovery, endpoints, cfg, instances: BTreeMap::new(), changed: Arc::default() }
    }

    /// Takes in what discovery says now, and lists the instances.
    pub(super) fn members(&mut self) -> Members {
        let endpoints = Arc::clone(&self.endpoints.borrow_and_update());
        // They are sorted.
        self.instances.retain(|id, _| endpoints.binary_search_by(|endpoint| endpoint.address.cmp(id)).is_ok());
        for Endpoint { address } in &*endpoints {
            let start = || Instance::start(address, &self.cfg, &self.changed);
            self.instances.entry(Arc::clone(address)).or_insert_with(start);
        }
        let member = |(id, instance): (&Arc<str>, &Instance)| Member {
            id: Arc::clone(id),
            peer: instance.peer(),
            up: instance.is_up(),
        };
        self.instances.iter().map(member).collect()
    }

    /// Until nobody holds the pool any more.
    pub(super) async fn run(mut self, pool: watch::Sender<Members>) {
        let mut changes = true;
        loop {
            tokio::select! {
                () = pool.closed() => return,
                told = self.endpoints.changed(), if changes => changes = told.is_ok(),
                () = self.changed.notified() => {}
            }
            let members = self.members();
            let before = Arc::clone(&pool.borrow());
            if before.iter().any(|member| member.up && !is_up(&members, &member.id)) {
                self.discovery.look_again();
            }
            if !before.iter().map(seen).eq(members.iter().map(seen)) {
                tell(&before, &members, self.cfg.target);
                pool.send_replace(members);
            }
        }
    }
}

fn is_up(members: &Members, id: &str) -> bool {
    members.iter().any(|member| member.up && *member.id == *id)
}

fn seen(member: &Member) -> (&str, bool) {
    (&member.id, member.up)
}

fn tell(before: &Members, after: &Members, target: &'static str) {
    let up = after.iter().filter(|member| member.up).count();
    let was_up = before.iter().filter(|member| member.up).count();
    tracing::info!(
        target_service = target,
        listed = after.len(),
        up,
        was_listed = before.len(),
        was_up,
        "instances changed"
    );
}
