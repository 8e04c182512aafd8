//! Values that must not leak.

use std::fmt;

use zeroize::Zeroize;

/// Holds a secret: prints nothing of it, compares without telling how much was right, and wipes
/// the memory when it is dropped.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes a value into keeping.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Opens the secret. Every use of this word is a place to review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize + Clone> Clone for Secret<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Zeroize + AsRef<[u8]>> PartialEq for Secret<T> {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.0.as_ref(), other.0.as_ref());
        aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
    }
}

impl<T: Zeroize + AsRef<[u8]>> Eq for Secret<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("open sesame".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(format!("{:?}", Some(vec![secret])), "Some([Secret(…)])");
    }

    /// Counts how often it is wiped, copies of it included.
    #[derive(Clone, Default)]
    struct Witness(std::rc::Rc<std::cell::Cell<u32>>);

    impl Zeroize for Witness {
        fn zeroize(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn each_copy_is_wiped_when_it_goes() {
        let witness = Witness::default();
        let secret = Secret::from(witness.clone());
        let copy = secret.clone();
        drop(secret);
        assert_eq!(witness.0.get(), 1);
        drop(copy);
        assert_eq!(witness.0.get(), 2);
    }

    #[test]
    fn equality_is_that_of_the_content() {
        let secret = Secret::new("a".to_owned());
        assert_eq!(secret, secret.clone());
        assert_ne!(secret, Secret::new("b".to_owned()));
        assert_ne!(secret, Secret::new("aa".to_owned()));
    }
}
