"""Settings for Django's own tests: those that it runs them with, and a report in a file."""

import os

from test_sqlite import DATABASES, DEFAULT_AUTO_FIELD, PASSWORD_HASHERS, SECRET_KEY, USE_TZ

__all__ = ["DATABASES", "DEFAULT_AUTO_FIELD", "PASSWORD_HASHERS", "SECRET_KEY", "USE_TZ"]

TEST_RUNNER = "xmlrunner.extra.djangotestrunner.XMLTestRunner"
TEST_OUTPUT_DIR = os.path.dirname(os.environ["FOREIGN_REPORT"])
TEST_OUTPUT_FILE_NAME = os.path.basename(os.environ["FOREIGN_REPORT"])
