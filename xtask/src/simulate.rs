//! `cargo xtask simulate`: the simulation of several owners, longer than in a test run, and its controls.

use std::process::Command;

use anyhow::ensure;

/// All of a schedule is this package's: the rest need not be built anew for it.
const OPTIMISED: &str = "profile.dev.package.confab-message-svc.opt-level=3";

/// Schedules with all rules; then each rule is cut once, until a schedule shows that it is needed.
pub(crate) fn run(schedules: u64) -> anyhow::Result<()> {
    let simulation = |filter: &str, schedules: Option<u64>| {
        let mut test = Command::new("cargo");
        test.args(["test", "--config", OPTIMISED, "--package", "confab-message-svc", "--lib", filter, "--"]);
        test.args(["--include-ignored", "--nocapture"]).current_dir(crate::root());
        test.envs(schedules.map(|count| ("CONFAB_SCHEDULES", count.to_string())));
        println!("{filter}");
        test.status()
    };
    let held = simulation("simulation::nothing_is_lost", Some(schedules))?.success();
    let controlled = simulation("simulation::controls", None)?.success();
    ensure!(held, "a schedule broke a promise");
    ensure!(controlled, "some rule was not shown to be needed");
    Ok(())
}
