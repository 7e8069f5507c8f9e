//! `cargo xtask lint`: format, clippy, and `buf lint` where buf is installed.

pub(crate) fn run() -> anyhow::Result<()> {
    crate::cargo(&["fmt", "--all", "--check"])?;
    crate::cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    crate::buf(&["lint"])
}
