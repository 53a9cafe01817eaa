//! The same step of all nodes at the same time: most of a step is waiting.

use std::thread;

use crate::error::Result;

/// Does the same to all at the same time; the first failure is told.
pub(super) fn at_once<'a, T: Sync + 'a>(
    all: impl Iterator<Item = &'a T>,
    act: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let act = &act;
    thread::scope(|scope| {
        let running: Vec<_> = all.map(|one| scope.spawn(move || act(one))).collect();
        let ended: Vec<Result<()>> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        ended.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LabError;

    #[test]
    fn all_are_done_and_the_first_failure_is_told() {
        let odd = |number: &u8| match number % 2 {
            1 => Ok(()),
            _ => Err(LabError::Refused(number.to_string())),
        };
        at_once([1, 3].iter(), odd).unwrap();
        assert_eq!(at_once([1, 4, 6].iter(), odd).unwrap_err().to_string(), "4");
    }
}
