"""Looking at a conversion: what the stages did, how many spikes there are, how accuracy depends on T."""
