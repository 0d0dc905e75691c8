//! Numbers that limits elsewhere keep small, in smaller types.

/// `value` as another number. Where a limit did not hold what it is for, a build with assertions stops, and any other goes
/// on with `most`.
pub(crate) fn fit<T, N: TryInto<T>>(value: N, most: T) -> T {
    let fitted = value.try_into();
    debug_assert!(fitted.is_ok(), "a number does not fit that a limit should have kept small");
    fitted.unwrap_or(most)
}
