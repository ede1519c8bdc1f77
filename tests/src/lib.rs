//! Cross-package tests: helpers shared by the test files.
