"""The motion database: clips in, references out (paper, section 3.2); it knows neither models nor bases."""
