"""What can be wrong with a data folder, each problem with file, line and remedy, found before hours are spent."""
