//! Numbers that limits elsewhere keep small, in smaller types.

/// `value` as another type of number. A value that does not fit, because a limit elsewhere failed, panics in a build
/// with debug assertions, and becomes `most` in others.
pub(crate) fn fit<T, N: TryInto<T>>(value: N, most: T) -> T {
    let fitted = value.try_into();
    debug_assert!(fitted.is_ok(), "a number does not fit that a limit should have kept small");
    fitted.unwrap_or(most)
}
