//! Who may call what.

use std::collections::{HashMap, HashSet};

/// Which role may call which RPC: a table in the program's code, since the mesh knows no proto. What is not in it is
/// refused.
///
/// ```
/// let policy = confab_mesh::Policy::new()
///     .allow("edge", &["/confab.message.v1.MessageService/*"])
///     .allow("service:billing", &["/confab.message.v1.MessageService/ListMessages"])
///     .allow_anyone(&["/grpc.health.v1.Health/*"]);
/// assert!(policy.allows(Some("edge"), "/confab.message.v1.MessageService/Converse"));
/// assert!(!policy.allows(Some("service:billing"), "/confab.message.v1.MessageService/Converse"));
/// assert!(!policy.allows(None, "/confab.message.v1.MessageService/Converse"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: HashMap<&'static str, Paths>,
    /// Every `service:<name>`.
    services: Paths,
    anyone: Paths,
}

/// Of RPCs, and of services with all that they have.
#[derive(Clone, Debug, Default)]
struct Paths {
    methods: HashSet<&'static str>,
    /// `confab.message.v1.MessageService`
    services: HashSet<&'static str>,
}

impl Policy {
    /// Nobody may call anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `role` (`edge`, `service:<name>`) may call `paths`, beside what it may already: each `/package.Service/Method`, or
    /// `/package.Service/*` for all of its methods.
    ///
    /// # Panics
    /// If a path is neither: the table is wrong.
    #[must_use]
    pub fn allow(mut self, role: &'static str, paths: &[&'static str]) -> Self {
        self.roles.entry(role).or_default().extend(paths);
        self
    }

    /// Every internal team's service (`service:<name>`, whatever the name) may call `paths`.
    ///
    /// # Panics
    /// As [`allow`](Self::allow).
    #[must_use]
    pub fn allow_services(mut self, paths: &[&'static str]) -> Self {
        self.services.extend(paths);
        self
    }

    /// Whoever comes may call `paths`, with an identity or without.
    ///
    /// # Panics
    /// As [`allow`](Self::allow).
    #[must_use]
    pub fn allow_anyone(mut self, paths: &[&'static str]) -> Self {
        self.anyone.extend(paths);
        self
    }

    /// Whether `role`, or a caller without an identity, may call the RPC at `path`.
    #[must_use]
    pub fn allows(&self, role: Option<&str>, path: &str) -> bool {
        let of_role = || role.and_then(|role| self.roles.get(role)).is_some_and(|paths| paths.contain(path));
        let of_services = || role.is_some_and(|role| role.starts_with("service:")) && self.services.contain(path);
        self.anyone.contain(path) || of_role() || of_services()
    }
}

impl Paths {
    fn extend(&mut self, paths: &[&'static str]) {
        for path in paths {
            let parts = path.strip_prefix('/').and_then(|rest| rest.split_once('/'));
            match parts {
                Some((service, "*")) if !service.is_empty() => self.services.insert(service),
                Some((service, method))
                    if !service.is_empty() && !method.is_empty() && !method.contains(['/', '*']) =>
                {
                    self.methods.insert(path)
                }
                _ => panic!("{path:?} is neither /package.Service/Method nor /package.Service/*"),
            };
        }
    }

    fn contain(&self, path: &str) -> bool {
        self.methods.contains(path)
            || path
                .strip_prefix('/')
                .and_then(|rest| rest.split_once('/'))
                .is_some_and(|(service, method)| !method.contains('/') && self.services.contains(service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_table_is_allowed() {
        let policy = Policy::new()
            .allow("edge", &["/a.v1.A/*", "/b.v1.B/Get"])
            .allow("edge", &["/b.v1.B/List"])
            .allow("service:billing", &["/b.v1.B/Get"])
            .allow_services(&["/c.v1.C/Get"])
            .allow_anyone(&["/health/Check"]);
        for (role, path, allowed) in [
            (Some("edge"), "/a.v1.A/Get", true),
            (Some("edge"), "/a.v1.A/", true),
            (Some("edge"), "/a.v1.A/Get/more", false),
            (Some("edge"), "/a.v1.AA/Get", false),
            (Some("edge"), "a.v1.A/Get", false),
            (Some("edge"), "/b.v1.B/Get", true),
            (Some("edge"), "/b.v1.B/List", true),
            (Some("edge"), "/b.v1.B/Set", false),
            (Some("service:billing"), "/b.v1.B/Get", true),
            (Some("service:billing"), "/b.v1.B/List", false),
            (Some("billing"), "/b.v1.B/Get", false),
            (Some("service:billing"), "/c.v1.C/Get", true),
            (Some("service:other"), "/c.v1.C/Get", true),
            (Some("service"), "/c.v1.C/Get", false),
            (Some("edge"), "/c.v1.C/Get", false),
            (None, "/c.v1.C/Get", false),
            (Some("fanout-svc"), "/b.v1.B/Get", false),
            (Some(""), "/b.v1.B/Get", false),
            (None, "/b.v1.B/Get", false),
            (None, "/health/Check", true),
            (Some("fanout-svc"), "/health/Check", true),
        ] {
            assert_eq!(policy.allows(role, path), allowed, "{role:?} calls {path}");
        }
        assert!(!Policy::new().allows(Some("edge"), "/a.v1.A/Get"));
    }

    #[test]
    fn a_table_that_is_wrong_is_not_taken() {
        for path in ["", "/", "a.v1.A/Get", "/a.v1.A", "/a.v1.A/", "//Get", "/a.v1.A/Get/more", "/a.v1.A/Get*"] {
            let allowed = std::panic::catch_unwind(|| Policy::new().allow("edge", &[path]));
            assert!(allowed.is_err(), "{path:?}");
        }
    }
}
