//! Something that goes on with every instance of a service: a stream to each, most often.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::{Member, Pool};

struct Running {
    task: AbortHandle,
    /// It is no longer listed, and ends then.
    until: Option<Instant>,
}

/// Runs one task per listed instance, and ends it `linger` after its instance is no longer listed: others, whose view is an
/// older one, may still count on it. An instance that is listed again meanwhile keeps its task.
///
/// Never returns; dropping it ends all tasks.
pub async fn each<F, Fut>(pool: Pool, linger: Duration, mut start: F)
where
    F: FnMut(Member) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut members = pool.watch();
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Arc<str>, Running> = HashMap::new();
    loop {
        let now = Instant::now();
        let listed = members.borrow_and_update().clone();
        for (id, running) in &mut running {
            let is_listed = listed.iter().any(|member| member.id == *id);
            running.until = if is_listed { None } else { running.until.or(Some(now + linger)) };
        }
        running.retain(|_, running| {
            let goes_on = running.until.is_none_or(|until| until > now);
            if !goes_on {
                running.task.abort();
            }
            goes_on
        });
        for member in listed.iter() {
            running.entry(member.id.clone()).or_insert_with(|| {
                let task = tasks.spawn(start(member.clone()));
                Running { task, until: None }
            });
        }
        while tasks.try_join_next().is_some() {}
        let next = running.values().filter_map(|running| running.until).min();
        tokio::select! {
            Ok(()) = members.changed() => {}
            () = sleep_until(next) => {}
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Members, Peer, local};
    use tokio::sync::{mpsc, watch};

    struct Ended(Arc<str>, mpsc::UnboundedSender<String>);

    impl Drop for Ended {
        fn drop(&mut self) {
            drop(self.1.send(format!("-{}", self.0)));
        }
    }

    fn members(names: &[&str]) -> Members {
        let nowhere = tower::service_fn(|_| std::future::ready(Err(tonic::Status::unavailable("a test"))));
        let peer = local(Identity::new("test"), Peer::new(nowhere));
        names.iter().map(|name| Member { id: (*name).into(), peer: peer.clone(), up: true }).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_per_listed_instance_that_lingers_and_comes_back() {
        let (list, listed) = watch::channel(members(&["a", "b"]));
        let (told, mut events) = mpsc::unbounded_channel();
        let started = Instant::now();
        let all = tokio::spawn(each(Pool::new(listed), Duration::from_secs(30), move |member| {
            let ended = Ended(member.id.clone(), told.clone());
            drop(told.send(format!("+{}", member.id)));
            async move {
                std::future::pending::<()>().await;
                drop(ended);
            }
        }));
        let mut next = async || events.recv().await.expect("each goes on");
        assert_eq!([next().await, next().await], ["+a", "+b"]);
        list.send_replace(members(&["b", "c"]));
        assert_eq!(next().await, "+c");
        list.send_replace(members(&["a", "c"]));
        assert_eq!(next().await, "-b");
        assert_eq!(started.elapsed().as_secs(), 30);
        all.abort();
        let mut ended = [next().await, next().await];
        ended.sort();
        assert_eq!(ended, ["-a", "-c"]);
    }
}
