//! Secrets encrypted at rest.
