"""What everything else uses: errors, settings, files, seeds, the registry, the cache, the command line."""
