//! Who may call what in the mesh: all of it is here.

use confab_mesh::Policy;
use confab_mesh::identity::ALL_ROLES;

/// Internal teams' services, whatever their names.
const TEAMS: &str = "service:*";

/// Each RPC, and who may call it. What is not in it, nobody may. Besides these, a process that has several roles may do what
/// each of them may; everybody with a name may ask what there is (reflection), and anybody whether it serves (health).
const RULES: &[(&str, &[&str])] = &[
    // What another instance than the owner gets goes on to it: one hop. Of `Converse` only where its edge asks for that.
    ("/confab.message.v1.MessageService/Converse", &["edge", "message-svc"]),
    ("/confab.message.v1.MessageService/SendMessage", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/Mark", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/SendTyping", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/ListMessages", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/Sync", &["edge", "message-svc"]),
    ("/confab.message.v1.MessageService/CreateChat", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/GetChat", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/ListChats", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/AddMembers", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/RemoveMembers", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/SetRole", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/RenameChat", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/DeleteChat", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/ListMembers", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/ListReceipts", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/WatchChat", &["message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/FilterAcquainted", &["edge", "message-svc"]),
    ("/confab.message.v1.MessageService/GetSettings", &["edge", TEAMS]),
    ("/confab.message.v1.MessageService/UpdateSettings", &["edge", TEAMS]),
    ("/confab.message.v1.MessageService/ListBlocks", &["edge", TEAMS]),
    ("/confab.message.v1.MessageService/SetBlock", &["edge", TEAMS]),
    ("/confab.message.v1.MessageService/SetMute", &["edge", TEAMS]),
    ("/confab.message.v1.MessageService/FilterVisible", &["edge"]),
    ("/confab.message.v1.MessageService/ApplyBlock", &["message-svc"]),
    ("/confab.message.v1.MessageService/EraseUser", &["edge", "message-svc", TEAMS]),
    ("/confab.message.v1.MessageService/EraseInChat", &["message-svc"]),
    ("/confab.message.v1.MessageService/ExpireChat", &["message-svc"]),
    ("/confab.message.v1.MessageService/WatchShards", &["edge"]),
    ("/confab.message.v1.MessageService/ViewChats", &["message-svc"]),
    ("/confab.message.v1.MessageService/NoticeShards", &["message-svc"]),
    ("/confab.fanout.v1.FanoutService/Publish", &["message-svc"]),
    ("/confab.fanout.v1.FanoutService/Subscribe", &["edge"]),
    ("/confab.presence.v1.PresenceService/Track", &["edge"]),
    ("/confab.presence.v1.PresenceService/Locate", &["fanout-svc"]),
    ("/confab.presence.v1.PresenceService/GetPresence", &["edge", TEAMS]),
    ("/confab.presence.v1.PresenceService/Watch", &["edge"]),
    ("/confab.presence.v1.PresenceService/KeepPoll", &["edge"]),
    ("/confab.presence.v1.PresenceService/TakePoll", &["edge"]),
    ("/confab.presence.v1.PresenceService/EndPoll", &["edge"]),
    ("/confab.presence.v1.PresenceService/PassPollFrames", &["edge"]),
    ("/confab.presence.v1.PresenceService/NoticeVisibility", &["message-svc"]),
    ("/confab.presence.v1.PresenceService/ListSessions", &["edge", TEAMS]),
    ("/confab.presence.v1.PresenceService/RevokeSessions", &["edge", TEAMS]),
];

const HEALTH: &[&str] = &["/grpc.health.v1.Health/*"];
const REFLECTION: &[&str] = &["/grpc.reflection.v1.ServerReflection/*", "/grpc.reflection.v1alpha.ServerReflection/*"];
const ROLES: [&str; 5] = ["edge", "message-svc", "fanout-svc", "presence-svc", ALL_ROLES];

/// What a listener of the mesh enforces.
pub(crate) fn policy() -> Policy {
    let policy = Policy::new().allow_anyone(HEALTH).allow_services(REFLECTION);
    let policy = ROLES.into_iter().fold(policy, |policy, role| policy.allow(role, REFLECTION));
    RULES.iter().fold(policy, |policy, (path, callers)| {
        let path = [*path];
        callers.iter().fold(policy, |policy, caller| match *caller {
            TEAMS => policy.allow_services(&path),
            role => policy.allow(role, &path).allow(ALL_ROLES, &path),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::config::{Role, StorageConfig};

    /// Every RPC of the protocols, and whether it streams.
    fn rpcs() -> BTreeMap<String, bool> {
        let files = FileDescriptorSet::decode(confab_proto::FILE_DESCRIPTOR_SET).expect("descriptors").file;
        let mut rpcs = BTreeMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    rpcs.insert(path, method.client_streaming() || method.server_streaming());
                }
            }
        }
        rpcs
    }

    #[test]
    fn each_rpc_has_a_rule_and_each_rule_an_rpc() {
        let ruled: Vec<&str> = RULES.iter().map(|(path, _)| *path).collect();
        let rpcs = rpcs();
        assert_eq!(ruled.iter().copied().collect::<BTreeSet<_>>(), rpcs.keys().map(String::as_str).collect());
        assert_eq!(ruled.len(), rpcs.len(), "an RPC has two rules");
        assert!(RULES.iter().all(|(_, callers)| !callers.is_empty()));
    }

    #[test]
    fn the_policy_is_the_table() {
        let policy = policy();
        for (path, callers) in RULES {
            for role in Role::ALL.map(Role::name) {
                assert_eq!(policy.allows(Some(role), path), callers.contains(&role), "{role} calls {path}");
            }
            for team in ["service:billing", "service:edge"] {
                assert_eq!(policy.allows(Some(team), path), callers.contains(&TEAMS), "{team} calls {path}");
            }
            let by_a_role = callers.iter().any(|caller| *caller != TEAMS);
            assert_eq!(policy.allows(Some(ALL_ROLES), path), by_a_role, "several roles call {path}");
            for nobody in [None, Some("billing"), Some("service"), Some("")] {
                assert!(!policy.allows(nobody, path), "{nobody:?} calls {path}");
            }
        }
    }

    #[test]
    fn roles_call_as_the_call_graph_says_and_teams_only_watch_by_a_stream() {
        let streams = rpcs();
        for (path, callers) in RULES {
            let served_by = |role: &Role| role.service().is_some_and(|service| path[1..].starts_with(service));
            let server = Role::ALL.into_iter().find(served_by).expect("a role serves it");
            for caller in *callers {
                let Some(caller) = Role::parse(caller) else {
                    let may = !streams[*path] || path.ends_with("/WatchChat");
                    assert!(*caller == TEAMS && may, "{caller} calls {path}");
                    continue;
                };
                // Of the streams only the one that an edge may ask to be passed on, and the one that goes to a chat's owner.
                let may_hop = !streams[*path] || path.ends_with("/Converse") || path.ends_with("/WatchChat");
                let hop = caller == server && server == Role::Message && may_hop;
                assert!(hop || caller.calls(&StorageConfig::Embedded).contains(&server), "{caller} calls {path}");
            }
        }
    }

    #[test]
    fn anybody_may_ask_for_health_and_who_has_a_name_what_there_is() {
        let policy = policy();
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert!(policy.allows(None, "/grpc.health.v1.Health/Check"));
        assert!(policy.allows(Some("service:billing"), reflection) && policy.allows(Some("edge"), reflection));
        assert!(!policy.allows(None, reflection));
    }
}
