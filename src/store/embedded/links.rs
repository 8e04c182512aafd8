//! Where links lead that stand in a store's place, or on the way to it.
//!
//! What is renamed to the name of a link would leave the file behind it as it is, under its old key,
//! where nobody looks for it. So links are followed, once, before anything is done.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{Error, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::open::unavailable;
#[cfg(unix)]
use super::whereabouts::is_same;
use crate::store::error::StoreError;
#[cfg(unix)]
use crate::store::ownership;

/// How many links are followed: as many as Linux follows.
const MOST_LINKS: u32 = 40;

/// The file that a store's path means once every link on the way is followed; neither it nor its
/// folders need stand there, but the folders that a link names must. A path without links comes back
/// as it is.
///
/// # Errors
/// [`StoreError::Unavailable`] for links that lead to no folder or in a circle; and for one that
/// another user could have made where we are root: what that user chose is not ours to replace.
pub fn behind_links(path: &Path) -> Result<PathBuf, StoreError> {
    followed(path, Trust::AsOwned)
}

/// Which links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// As root, none that another user could have made.
    AsOwned,
    /// All: nothing is done to what is behind them.
    Each,
}

fn followed(path: &Path, trust: Trust) -> Result<PathBuf, StoreError> {
    let refused = |link: &Path, why: &str| StoreError::Unavailable {
        reason: format!("{}: {} is a link {why}", path.display(), link.display()),
    };
    let whole = std::path::absolute(path).map_err(|error| unavailable(path, &error))?;
    let mut rest: VecDeque<OsString> = whole.components().map(name_of).collect();
    let mut resolved = PathBuf::new();
    let mut links = 0;
    // Which links were followed whose targets still stand at the front of the rest, the innermost
    // last, and how many names of each.
    let mut targets: Vec<(PathBuf, usize)> = Vec::new();
    while let Some(name) = rest.pop_front() {
        targets.retain(|(_, left)| *left > 0);
        let named_by = targets.last_mut().map(|(link, left)| {
            *left -= 1;
            link.clone()
        });
        if name == "." {
            continue;
        }
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(name);
        let found = match (found_at(&next)?, named_by) {
            // What is behind such a link isn't where it should be: a disk that isn't mounted.
            (None, Some(link)) if !rest.is_empty() => return Err(leads_to_nothing(&link, &next)),
            (found, _) => found.filter(Metadata::is_symlink),
        };
        // The caller says what it means where nothing is there, or makes the folder.
        let Some(found) = found else {
            resolved = next;
            continue;
        };
        #[cfg(unix)]
        if trust == Trust::AsOwned && ownership::may_be_anothers_link(&next, &found) {
            return Err(refused(
                &next,
                "that another user could have made, and root follows none such: act as that user, \
                 or name the file itself in `store.url`",
            ));
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(refused(&next, "that leads to no end"));
        }
        let target = fs::read_link(&next).map_err(|error: Error| unavailable(&next, &error))?;
        let target: Vec<_> = target.components().map(name_of).collect();
        targets.push((next, target.len()));
        for (n, name) in target.into_iter().enumerate() {
            rest.insert(n, name);
        }
    }
    match links {
        0 => Ok(path.to_owned()),
        _ => Ok(resolved),
    }
}

/// Whether a file that is to be made would stand in the place of a store: it is the same file, by whatever name, or,
/// where none stands there, it has the same name in the same folder. Where the store's folder can't be told, the same
/// name is enough; where that of the file can't be told, nothing can be made there.
#[must_use]
pub fn is_same_place(file: &Path, store: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(file), Ok(store)) = (fs::metadata(file), fs::metadata(store)) {
        return is_same(&file, &store);
    }
    let place = |path: &Path| {
        let path = std::path::absolute(followed(path, Trust::Each).ok()?).ok()?;
        Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
    };
    match (place(file), place(store)) {
        (Some(file), Some(store)) => file == store,
        (Some(_), None) => file.file_name() == store.file_name(),
        (None, _) => false,
    }
}

/// What stands at `path`, if anything does; of a link, the link.
fn found_at(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(path, &error)),
    }
}

fn leads_to_nothing(link: &Path, missing: &Path) -> StoreError {
    StoreError::Unavailable {
        reason: format!(
            "{} is a link that leads to nothing: there is no {}; mend the link, or remove it",
            link.display(),
            missing.display()
        ),
    }
}

fn name_of(component: Component<'_>) -> OsString {
    component.as_os_str().to_owned()
}

/// Refuses a link in the place of a file that is to be replaced.
pub(super) fn refuse_link(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(StoreError::Unavailable {
            reason: format!("{} is a link; name the file behind it", path.display()),
        }),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    fn refusal(path: &Path) -> String {
        let refused = behind_links(path).expect_err("refused");
        assert!(matches!(refused, StoreError::Unavailable { .. }));
        refused.to_string()
    }

    #[test]
    fn every_link_on_the_way_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        for folder in ["data", "disk/deep"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        let link = |target: &str, at: &str| symlink(target, root.join(at)).expect("linked");
        link("../hop/b", "data/a");
        link("disk/./deep", "hop");
        link(root.join("data/c").to_str().expect("text"), "disk/deep/b");
        link("../disk/deep/../deep/real", "data/c");
        let real = root.join("disk/deep/real");
        let resolved = || behind_links(&root.join("data/a")).expect("resolved");
        assert_eq!(resolved(), real, "though nothing is there yet");
        fs::write(&real, b"store").expect("written");
        assert_eq!(resolved(), real);
        assert_eq!(behind_links(&real).expect("no link"), real);
        assert_eq!(
            behind_links(&root.join("hop/real")).expect("a linked folder"),
            real
        );

        link("nowhere/real", "data/lost");
        let lost = root.join("data/lost");
        assert!(refusal(&lost).contains(&format!(
            "{} is a link that leads to nothing",
            lost.display()
        )));
        // The one that dangles is named, wherever it stands.
        link("data/lost/deep", "chain");
        assert!(
            refusal(&root.join("chain/store")).contains(&format!("{} is a link", lost.display()))
        );
        link("round", "data/round");
        assert!(refusal(&root.join("data/round")).contains("no end"));
    }

    #[test]
    fn a_folder_that_no_link_names_may_yet_have_to_be_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        fs::create_dir(root.join("disk")).expect("made");
        let link = |target: &str, at: &str| symlink(target, root.join(at)).expect("linked");
        link("disk", "var");
        let resolved = |path: &str| behind_links(&root.join(path)).expect("resolved");
        assert_eq!(resolved("var/data/store"), root.join("disk/data/store"));
        assert_eq!(resolved("var/a/b/store"), root.join("disk/a/b/store"));
        // Links behind such a folder are followed, too.
        assert_eq!(resolved("disk/a/../../var/store"), root.join("disk/store"));
        assert_eq!(resolved("data/store"), root.join("data/store"));
        // The disk itself isn't made.
        fs::remove_dir(root.join("disk")).expect("removed");
        let refused = refusal(&root.join("var/data/store"));
        assert!(refused.contains(&format!(
            "{} is a link that leads to nothing",
            root.join("var").display()
        )));
    }

    #[test]
    fn where_a_store_stood_is_its_place_as_far_as_that_can_be_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        symlink("round", root.join("round")).expect("linked");
        let unknown = root.join("round/store");
        assert!(is_same_place(&root.join("store"), &unknown));
        assert!(!is_same_place(&root.join("copy"), &unknown));
        // Nothing can be made there: that says it itself.
        assert!(!is_same_place(&unknown, &root.join("store")));
    }

    /// Says nothing where it isn't run as root.
    #[test]
    fn root_follows_no_link_that_another_user_could_have_made() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        for folder in ["data", "disk", "shared"] {
            fs::create_dir(root.join(folder)).expect("made");
        }
        let other = Some(12_345);
        chown(root.join("disk"), other, other).expect("given");
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(root.join("shared"), open).expect("set");
        let link = |target: &str, at: &str| symlink(target, root.join(at)).expect("linked");

        // The first is root's own, the next is not; be it the file or a folder.
        link("../disk/b", "data/a");
        link("/etc/passwd", "disk/b");
        assert!(refusal(&root.join("data/a")).contains("disk/b"));
        link("/etc", "disk/etc");
        assert!(refusal(&root.join("disk/etc/passwd")).contains("another user"));
        link("../disk/etc/passwd", "data/c");
        assert!(refusal(&root.join("data/c")).contains("disk/etc"));
        // A file there is what the service has.
        link("../disk/real", "data/d");
        let resolved = behind_links(&root.join("data/d")).expect("no link");
        assert_eq!(resolved, root.join("disk/real"));
        // That a backup would stand in a store's place is found behind such a link, too.
        let store = root.join("data/a");
        fs::remove_file(root.join("disk/b")).expect("removed");
        link("../disk/moved", "disk/b");
        assert!(refusal(&store).contains("disk/b"));
        assert!(is_same_place(&root.join("disk/moved"), &store));
        assert!(!is_same_place(&root.join("disk/a"), &store));
        // In a folder of all, root's own are.
        link("../disk/real", "shared/own");
        behind_links(&root.join("shared/own")).expect("root made it");
        link("/etc/passwd", "shared/other");
        lchown(root.join("shared/other"), other, other).expect("given");
        assert!(refusal(&root.join("shared/other")).contains("another user"));
    }
}
