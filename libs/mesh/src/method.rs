//! Which RPC a request's path names.

/// `/confab.message.v1.MessageService/Converse`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method<'a> {
    /// `confab.message.v1.MessageService`; empty if the path is no RPC's.
    pub(crate) service: &'a str,
    /// `Converse`
    pub(crate) name: &'a str,
}

impl<'a> Method<'a> {
    pub(crate) fn of_path(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (service, name) = path.split_once('/').unwrap_or(("", path));
        Self { service, name }
    }
}

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn a_path_is_taken_apart() {
        for (path, service, name) in [
            ("/confab.a.v1.A/Get", "confab.a.v1.A", "Get"),
            ("/A/Get/more", "A", "Get/more"),
            ("/healthz", "", "healthz"),
            ("/", "", ""),
            ("", "", ""),
        ] {
            assert_eq!(Method::of_path(path), Method { service, name }, "{path:?}");
        }
    }
}
