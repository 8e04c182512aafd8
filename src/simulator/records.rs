//! What became of the notifications: of all that are still sent, and of the last that aren't.
use std::collections::{BTreeMap, VecDeque};

use super::notify::{NotificationRecord, NotificationState};

/// How many are remembered that are acknowledged or given up.
const FINISHED_KEPT: usize = 1000;

/// The records by their number, in the order of their opening.
#[derive(Default)]
pub(super) struct Records {
    all: BTreeMap<u64, NotificationRecord>,
    /// The numbers of those that are finished, in the order of their end.
    finished: VecDeque<u64>,
    next: u64,
}

impl Records {
    /// Opens a record and gives its number.
    pub(super) fn open(&mut self, record: NotificationRecord) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, record);
        number
    }

    /// Changes a record; one that is finished by that may push the oldest such one out.
    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut NotificationRecord)) {
        let Some(record) = self.all.get_mut(&number) else {
            return;
        };
        let before = record.state;
        change(record);
        if before != NotificationState::Pending || record.state == NotificationState::Pending {
            return;
        }
        self.finished.push_back(number);
        if self.finished.len() > FINISHED_KEPT {
            self.finished
                .pop_front()
                .map(|oldest| self.all.remove(&oldest));
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&NotificationRecord> {
        self.all.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NotificationRecord> {
        self.all.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_finished_ones_are_kept() {
        let mut records = Records::default();
        let record = |state| NotificationRecord {
            notify_id: String::new(),
            event: "payment",
            app_id: String::new(),
            url: String::new(),
            state,
            body: String::new(),
            attempts: Vec::new(),
            remark: None,
        };
        let pending = records.open(record(NotificationState::Pending));
        let numbers: Vec<_> = (0..FINISHED_KEPT + 5)
            .map(|_| {
                let number = records.open(record(NotificationState::Pending));
                records.change(number, |record| record.state = NotificationState::Acked);
                number
            })
            .collect();
        assert_eq!(records.iter().count(), FINISHED_KEPT + 1);
        assert!(records.get(pending).is_some());
        assert!(records.get(numbers[4]).is_none());
        assert!(records.get(numbers[5]).is_some());
    }
}
