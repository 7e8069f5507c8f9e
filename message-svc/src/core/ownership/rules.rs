//! The rules that the simulation takes away, one at a time, to show that each is needed. Outside of tests all hold.

/// One rule of `docs/design/0004-ownership.md`.
#[cfg_attr(not(test), expect(dead_code, reason = "named where they are kept, taken away in tests only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    SettleUnknownMap,
    NoticeAnotherTenure,
    DeadBeforeMove,
    PurgeUnnamed,
    StampsInRange,
    Window,
    OnlyContiguous,
    LeaseAfterQuorum,
    SendsWithTheMessage,
    SendsOutliveTries,
    BucketBeforeItsRows,
    QuorumReads,
    LowerBeforeUpper,
    ReadChatAgain,
    StaleUpto,
    CutAtHole,
    CutOtherEpochs,
    RewriteWithFreshEpoch,
    RosterBeforeRewrite,
    RewriteUpperFirst,
    CheckSendAgainstRow,
    RefuseGenerations,
    Rewrite,
    /// Of `docs/design/0007-edits-deletions-members.md`.
    ChangeAlone,
    ChangeAfterEvent,
    RedoChanges,
    RedoMembers,
    /// Of `docs/design/0010-retention.md`.
    ExpireAsRead,
    StaySilent,
    /// Of `docs/design/0005-redis.md`.
    RecentWithoutHole,
}

#[cfg(test)]
thread_local! {
    static CUT: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Whether a rule holds.
#[cfg(not(test))]
pub(crate) const fn holds(_rule: Rule) -> bool {
    true
}

/// Whether a rule holds: not, if this thread's simulation has cut it.
#[cfg(test)]
pub(crate) fn holds(rule: Rule) -> bool {
    CUT.with(|cut| cut.get() != Some(rule))
}

/// Cuts a rule for this thread.
#[cfg(test)]
pub(crate) fn cut(rule: Option<Rule>) {
    CUT.with(|cut| cut.set(rule));
}
